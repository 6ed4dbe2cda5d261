/* Every image has something to say, or objcopy would have nothing to copy. */
static const char banner[] __attribute__((used, section(".toy"))) = "a toy";

void start_kernel(void)
{
	for (;;)
		;
}
