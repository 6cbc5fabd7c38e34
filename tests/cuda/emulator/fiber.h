/* Fibers on x86-64 (System V): a stack of one's own and a switch that keeps what a call must keep.
 * AddressSanitizer is told of each switch, so that it knows which stack is in use. */
#ifndef N730_FIBER_H
#define N730_FIBER_H
#include <cstddef>
#include <cstdint>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define N730_ASAN 1
#else
#define N730_ASAN 0
#endif

extern "C" void n730_fiber_switch(void **save, void *to);
asm(R"(
.text
.weak n730_fiber_switch
.type n730_fiber_switch,@function
n730_fiber_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

namespace emulator {

/* One fiber; its stack is kept from one use to the next. */
class Fiber {
  public:
    explicit Fiber(size_t stack_bytes) : stack_(stack_bytes + 16) {}

    /* The next resume() begins `entry`, which must never return. */
    void start(void (*entry)()) {
#if N730_ASAN
        __asan_unpoison_memory_region(stack_.data(), stack_.size()); /* frames that the last use never left */
#endif
        auto top = (reinterpret_cast<uintptr_t>(stack_.data()) + stack_.size()) & ~uintptr_t(15);
        void **p = reinterpret_cast<void **>(top);
        *--p = nullptr; /* as if called: the stack is 8 bytes off at entry */
        *--p = reinterpret_cast<void *>(entry);
        for (int i = 0; i < 6; i++) *--p = nullptr;
        sp_ = p;
    }
    /* From outside: run until suspend(). */
    void resume() {
#if N730_ASAN
        void *fake;
        __sanitizer_start_switch_fiber(&fake, stack_.data(), stack_.size());
#endif
        n730_fiber_switch(&outside_, sp_);
#if N730_ASAN
        __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
    }
    /* From inside: back to who called resume(). */
    void suspend() {
#if N730_ASAN
        void *fake;
        __sanitizer_start_switch_fiber(&fake, outside_stack_, outside_size_);
#endif
        n730_fiber_switch(&sp_, outside_);
        arrived(
#if N730_ASAN
            fake
#else
            nullptr
#endif
        );
    }
    /* First thing inside. */
    void arrived(void *fake) {
#if N730_ASAN
        __sanitizer_finish_switch_fiber(fake, &outside_stack_, &outside_size_);
#else
        (void)fake;
#endif
    }

  private:
    std::vector<char> stack_;
    void *sp_ = nullptr, *outside_ = nullptr;
    const void *outside_stack_ = nullptr;
    size_t outside_size_ = 0;
};

} // namespace emulator
#endif
