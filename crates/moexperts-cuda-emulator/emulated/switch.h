// Switching between stacks. The functions of the C library would need system calls.

#pragma once

#include <cstddef>
#include <cstdint>

// Saves the registers of the caller on its stack, whose top goes to `from`, and continues at `to`.
extern "C" void emulator_switch(void** from, void* to);

#if defined(__APPLE__)
#define EMULATOR_SYMBOL "_emulator_switch"
#else
#define EMULATOR_SYMBOL "emulator_switch"
#endif

#if defined(__x86_64__)
__asm__(
    ".text\n"
    ".globl " EMULATOR_SYMBOL "\n"
    EMULATOR_SYMBOL ":\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    // Not `ret`: the processor predicts that it returns to where this was called.
    "    popq %rax\n"
    "    jmp *%rax\n");

// A stack that starts with `entry` when it is switched to.
static inline void* new_stack(uint8_t* top, void (*entry)()) {
    auto** at = reinterpret_cast<void**>(top);
    *--at = nullptr;
    *--at = reinterpret_cast<void*>(entry);
    for (int saved = 0; saved < 6; ++saved) *--at = nullptr;
    return at;
}
#elif defined(__aarch64__)
__asm__(
    ".text\n"
    ".globl " EMULATOR_SYMBOL "\n"
    ".p2align 2\n"
    EMULATOR_SYMBOL ":\n"
    "    sub sp, sp, #160\n"
    "    stp x19, x20, [sp, #0]\n"
    "    stp x21, x22, [sp, #16]\n"
    "    stp x23, x24, [sp, #32]\n"
    "    stp x25, x26, [sp, #48]\n"
    "    stp x27, x28, [sp, #64]\n"
    "    stp x29, x30, [sp, #80]\n"
    "    stp d8, d9, [sp, #96]\n"
    "    stp d10, d11, [sp, #112]\n"
    "    stp d12, d13, [sp, #128]\n"
    "    stp d14, d15, [sp, #144]\n"
    "    mov x9, sp\n"
    "    str x9, [x0]\n"
    "    mov sp, x1\n"
    "    ldp x19, x20, [sp, #0]\n"
    "    ldp x21, x22, [sp, #16]\n"
    "    ldp x23, x24, [sp, #32]\n"
    "    ldp x25, x26, [sp, #48]\n"
    "    ldp x27, x28, [sp, #64]\n"
    "    ldp x29, x30, [sp, #80]\n"
    "    ldp d8, d9, [sp, #96]\n"
    "    ldp d10, d11, [sp, #112]\n"
    "    ldp d12, d13, [sp, #128]\n"
    "    ldp d14, d15, [sp, #144]\n"
    "    add sp, sp, #160\n"
    "    ret\n");

static inline void* new_stack(uint8_t* top, void (*entry)()) {
    auto** at = reinterpret_cast<void**>(top) - 20;
    for (int saved = 0; saved < 20; ++saved) at[saved] = nullptr;
    at[11] = reinterpret_cast<void*>(entry);
    return at;
}
#else
#error "the emulator switches stacks on x86-64 and AArch64"
#endif
