// SPDX-License-Identifier: GPL-2.0-only
/*
 *  linux/mm/memory_hotplug.c
 */
#include <linux/toy.h>

int online_pages(unsigned long pfn, unsigned long nr_pages)
{
	return pfn > nr_pages;
}

int offline_pages(unsigned long pfn, unsigned long nr_pages)
{
	return pfn < nr_pages;
}
