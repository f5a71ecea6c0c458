/* true ends at once: what fork and exec cost is not its doing. */
int main(void) { return 0; }
