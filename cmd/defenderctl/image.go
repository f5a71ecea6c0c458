package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/urfave/cli/v2"

	"appdefender/inject/image"
)

func (a *app) embedImage() *cli.Command {
	return &cli.Command{
		Name:      "image",
		Usage:     "put the defender into an image, without an engine",
		UsageText: "defenderctl embed image FROM TO [flags]",
		Description: "FROM and TO are names in registries, or docker-archive:FILE, oci-archive:FILE, oci:DIR, of which\n" +
			"FILE:NAME or DIR:NAME is one image of several.\n\n" +
			"    defenderctl embed image example.com/shop:1 example.com/shop:1-protected \\\n" +
			"        --defender-image example.com/defender:1 --policy policy.yaml\n\n" +
			"One layer is added, and ENTRYPOINT starts the defender, which starts what it did before.\n" +
			"--remove gives the original back, with its digest. Passwords are those of \"docker login\".\n\n" +
			"Of an image of many platforms each gets the defender of its processor, out of\n" +
			"--defender-image or of --defender given twice. Platforms that there is no defender for are\n" +
			"refused: --platform linux/amd64,linux/arm64 leaves them out, --platform linux/amd64 makes an\n" +
			"image of that alone.",
		OnUsageError: usageError,
		Flags: slices.Concat([]cli.Flag{
			&cli.StringSliceFlag{Name: "defender", Usage: "`FILE` with the defender's program, one for each processor (default: /defender of --defender-image)"},
			&cli.StringSliceFlag{Name: "image", Usage: "`IMAGE` that rules know the containers by"},
		}, optionFlags(), placeFlags(), []cli.Flag{
			&cli.BoolFlag{Name: "check", Usage: "write nothing; exit with 1 unless FROM is protected and these flags would change nothing"},
			&cli.BoolFlag{Name: "remove", Usage: "take the defender out again"},
		}),
		Action: a.image,
	}
}

func (a *app) image(c *cli.Context) error {
	switch check := c.Bool("check"); {
	case check && c.NArg() != 1:
		return errors.New(`give the one image to look at, as in "defenderctl embed image example.com/shop:1-protected --check"`)
	case !check && c.NArg() != 2:
		return errors.New(`give two images, as in "defenderctl embed image example.com/shop:1 example.com/shop:1-protected"`)
	}
	if c.Bool("check") && c.Bool("remove") {
		return errors.New("--check writes nothing: leave --remove away")
	}
	o, err := a.embedOptions(c)
	if err != nil {
		return err
	}
	if names := c.StringSlice("image"); len(names) > 1 {
		return errors.New("--image: give one")
	} else if len(names) == 1 {
		o.Images = map[string]string{"": names[0]}
	}
	places, err := a.places(c)
	if err != nil {
		return err
	}
	j := image.Job{From: c.Args().Get(0), To: c.Args().Get(1), Options: o}
	for _, file := range c.StringSlice("defender") {
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("--defender: %w", err)
		}
		j.Programs = append(j.Programs, data)
	}
	// Large files are on their way: an interrupt must leave none of them half.
	ctx, stop := signal.NotifyContext(c.Context, os.Interrupt, syscall.SIGTERM)
	defer stop()
	var res *image.Result
	if c.Bool("remove") {
		res, err = places.Remove(ctx, j.From, j.To)
	} else {
		res, err = places.Embed(ctx, j)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = errors.New("interrupted")
		}
		return notWritten(err)
	}
	if c.Bool("check") {
		if res.Changed {
			return cli.Exit(fmt.Sprintf("%s is not protected as these flags say", j.From), exitFaults)
		}
		return nil
	}
	for _, note := range res.Notes {
		fmt.Fprintf(a.err, "defenderctl: %s: %s\n", j.From, note)
	}
	_, err = fmt.Fprintf(a.out, "%s@%s\n", j.To, res.Digest)
	return err
}
