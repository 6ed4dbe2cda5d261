/* CPU control.
 * (C) 2001, 2002, 2003, 2004 Rusty Russell
 *
 * Of it, the names of two functions.
 */
#include <linux/toy.h>

int cpu_up(unsigned int cpu)
{
	return cpu == 0;
}

int cpu_down(unsigned int cpu)
{
	return cpu == 0;
}
