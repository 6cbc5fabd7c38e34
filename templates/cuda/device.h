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
/* The two big-endian FP16 of a word of the file. */
N730_DEVICE void halves_to_floats(unsigned word, float &first, float &second) {
    asm("{ .reg .b16 %%first, %%second; mov.b32 {%%first, %%second}, %2; cvt.f32.f16 %0, %%first; cvt.f32.f16 %1, %%second; }"
        : "=f"(first), "=f"(second)
        : "r"(__byte_perm(word, 0, 0x2301)));
}
/* Byte i of the result is the byte of b:a that nibble i of the selector names, or eight times its sign from 8 on. */
N730_DEVICE unsigned permute(unsigned a, unsigned b, unsigned selector) {
    unsigned v;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(v) : "r"(a), "r"(b), "r"(selector));
    return v;
}
/* Vectors to and from shared memory. In plain C++ the compiler takes them apart and puts them together again, and not twice in
 * the same way: two builds would not have the same bytes. */
template <int AT> /* floats from there */
N730_DEVICE float4 load4(const float *shared) {
    float4 v;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4 + %5];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "l"(__cvta_generic_to_shared(shared)), "n"(4 * AT));
    return v;
}
template <int AT>
N730_DEVICE float2 load2(const float *shared) {
    float2 v;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2 + %3];"
                 : "=f"(v.x), "=f"(v.y)
                 : "l"(__cvta_generic_to_shared(shared)), "n"(4 * AT));
    return v;
}
N730_DEVICE void store4(float *shared, float a, float b, float c, float d) {
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};"
                 :: "l"(__cvta_generic_to_shared(shared)), "f"(a), "f"(b), "f"(c), "f"(d)
                 : "memory");
}
N730_DEVICE void store2(float *shared, float a, float b) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" :: "l"(__cvta_generic_to_shared(shared)), "f"(a), "f"(b) : "memory");
}
#endif

N730_DEVICE unsigned swap_bytes(unsigned v) { return __byte_perm(v, 0, 0x0123); }
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
