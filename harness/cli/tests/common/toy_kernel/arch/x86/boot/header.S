# Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".
	.section .header, "a"
	.org	0x1fe
	.word	0xaa55
	.org	0x202
	.ascii	"HdrS"
	.org	0x20e
	.word	0x100
	.org	0x300
	.asciz	"6.1.0-toy (hotplug@hotplug) #1"
	.org	0x400
