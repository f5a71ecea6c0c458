package policy

import "fmt"

// effectWords is how faults spell the choice.
const effectWords = "one of disable, alert, prevent, block"

// MarshalText returns the effect's word.
func (e Effect) MarshalText() ([]byte, error) {
	if e > Inherit {
		return nil, fmt.Errorf("%d is not an effect", uint8(e))
	}
	return []byte(e.String()), nil
}

// UnmarshalText reads the effect's word; "default" is Inherit. Nothing else is an effect, and no
// letter case but the lower one.
func (e *Effect) UnmarshalText(text []byte) error {
	for known := Prevent; known <= Inherit; known++ {
		if string(text) == known.String() {
			*e = known
			return nil
		}
	}
	return fmt.Errorf("%q is not an effect; %s", text, effectWords)
}
