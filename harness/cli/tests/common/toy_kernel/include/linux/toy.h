/* What the fake guest reads out of the image: examples/fake_qemu/script.rs. */
#define HAPPENS(text) \
	do { static const char happens[] __attribute__((used, section(".toy"))) = "toy: " text; } while (0)
