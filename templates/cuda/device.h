/* What all kernels share: bytes, bits, shuffles. Written for NVRTC without any header of a toolkit.
 *
 * Floats: every a * b + c is two roundings (compile with --fmad=false), division and square root round correctly and
 * denormals are kept, all as in FORMAT.md, section 4, so that a GPU gives the bits of every CPU. A fused multiply-add is
 * written fmaf, and only where its result is exact. */
#ifndef N730_CUDA_DEVICE_H
#define N730_CUDA_DEVICE_H
#include "call.h"

#define N730_DEVICE static __device__ __forceinline__
#define N730_WARP 0xffffffffu /* all lanes take part */

#ifndef N730_EMULATED /* where no GPU is, the emulator's header has these */
N730_DEVICE float half_to_float(unsigned short h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}
N730_DEVICE unsigned short float_to_half(float f) {
    unsigned short h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}
#endif

N730_DEVICE unsigned swap_bytes(unsigned v) { return __byte_perm(v, 0, 0x0123); }
N730_DEVICE unsigned swap_halves(unsigned v) { return __byte_perm(v, 0, 0x2301); } /* each of two u16 */
N730_DEVICE float load_f32_be(const unsigned char *p) { return __uint_as_float(swap_bytes(__ldg((const unsigned *)p))); }
N730_DEVICE unsigned short load_u16_be(const unsigned char *p) {
    const unsigned v = __ldg((const unsigned short *)p);
    return (unsigned short)(v << 8 | v >> 8);
}
N730_DEVICE int at_most(int a, int b) { return a < b ? a : b; }
N730_DEVICE float larger(float a, float b) { return a > b ? a : b; } /* b where either is NaN */

/* The input and output of a token. */
N730_DEVICE const float *input(const n730_cuda_call &call, int i, int token) {
    return (const float *)(call.in[i] + token * call.in_stride[i]);
}
N730_DEVICE float *output(const n730_cuda_call &call, int token) {
    return (float *)(call.out + token * call.out_stride);
}
#endif
