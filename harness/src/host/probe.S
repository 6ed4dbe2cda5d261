# The guest of the accelerator probe. This boot sector enters the same modes as a kernel does: real
# mode, protected mode, paging, long mode. It reports each mode on the first serial port, then does
# some of the work that a kernel does, and reports its end.
#
# payload.rs contains the assembled code. A test there assembles this file and compares:
#     as -o probe.o probe.S && ld -Ttext 0x7c00 --oformat binary -o probe.bin probe.o
# Modes and tables: Intel SDM volume 3A, 10.8.5 "Initializing IA-32e Mode".

	.equ	SERIAL, 0x3f8
	.equ	PML4, 0x1000
	.equ	PDPT, 0x2000
	.equ	PD,   0x3000
	# The tables and the work area are below 16 MiB. The machine of the probe has 256 MiB.
	.equ	AREA, 0x200000
	.equ	ROUNDS, 20000000

	.code16
	.globl	_start
_start:	cli
	cld
	ljmp	$0, $1f
1:	xorl	%eax, %eax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	$0x7c00, %sp
	movw	$SERIAL, %dx
	movb	$'R', %al
	outb	%al, %dx

	# This maps 1 GiB one to one with 512 pages of 2 MiB.
	xorl	%eax, %eax
	movw	$PML4, %di
	movw	$0x3000 / 4, %cx
	rep stosl
	movl	$PDPT + 3, PML4
	movl	$PD + 3, PDPT
	movw	$PD, %di
	movl	$0x83, %eax
2:	movl	%eax, (%di)
	addw	$8, %di
	addl	$0x200000, %eax
	cmpw	$PD + 0x1000, %di
	jne	2b

	lgdtl	gdt_pointer
	movl	%cr0, %eax
	orb	$1, %al
	movl	%eax, %cr0
	ljmp	$0x08, $protected

	.code32
protected:
	movl	$0x10, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	movb	$'P', %al
	outb	%al, %dx

	movl	%cr4, %eax
	orb	$0x20, %al		# PAE
	movl	%eax, %cr4
	movl	$PML4, %eax
	movl	%eax, %cr3
	movl	$0xc0000080, %ecx	# EFER
	rdmsr
	orb	$1, %ah			# LME
	wrmsr
	movl	%cr0, %eax
	orl	$0x80000000, %eax	# PG
	movl	%eax, %cr0
	ljmp	$0x18, $long_mode

	.code64
long_mode:
	movw	$SERIAL, %dx
	movb	$'L', %al
	outb	%al, %dx

	xorl	%eax, %eax
	cpuid
	# Like the decompression of a kernel, this loop mixes arithmetic with reads and writes all
	# over some MiB.
	movl	$ROUNDS, %ecx
	movl	$AREA, %edi
3:	movl	%ecx, %esi
	andl	$0x7ffff8, %esi
	addq	%rax, (%rdi, %rsi)
	rolq	$7, %rax
	addq	%rcx, %rax
	decl	%ecx
	jnz	3b

	movw	$SERIAL, %dx
	movb	$'D', %al
	outb	%al, %dx
4:	hlt
	jmp	4b

	.balign	8
gdt:	.quad	0
	.quad	0x00cf9b000000ffff	# 0x08: code, 32 bits
	.quad	0x00cf93000000ffff	# 0x10: data
	.quad	0x00af9b000000ffff	# 0x18: code, 64 bits
gdt_pointer:
	.word	. - gdt - 1
	.long	gdt

	.org	510
	.word	0xaa55
