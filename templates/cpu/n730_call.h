/* The one calling convention of all CPU kernels: built into the runtime, in flat images, from templates or TVM.
 *
 * A kernel computes the work items [begin, end) of one step, for all tokens of the call; FORMAT.md, section 2,
 * says what a work item of each op is. Threads get disjoint ranges; a kernel writes nothing outside its items,
 * allocates nothing, keeps its stack frame under 4 KiB and calls nothing. */
#ifndef N730_CALL_H
#define N730_CALL_H
#include <stdint.h>

#if defined(__x86_64__)
#define N730_ABI __attribute__((sysv_abi))
#else
#define N730_ABI
#endif

typedef struct n730_call {
    const void *in[3];    /* inputs: first byte of the first token of this call */
    void *out;            /* output, likewise */
    int64_t in_stride[3]; /* bytes from one token to the next */
    int64_t out_stride;
    const uint8_t *weight; /* tensor bytes as in the file (big-endian), 64-byte aligned */
    const uint8_t *bias;   /* f32 big-endian [rows] or NULL */
    int64_t rows, cols;    /* of the weight matrix; for ops without one: cols = width of in[0] */
    int64_t tokens;        /* tokens in this call, at least 1 */
    int64_t position;      /* position of the first token in the sequence */
    const int32_t *ids;    /* EMBED: token ids [tokens], or NULL: positions */
    void *k_cache;         /* KV_STORE, ATTENTION: native f16 or f32 [kv_heads][context][head_dim] */
    void *v_cache;
    int64_t context;  /* positions the cache holds; position p is in row p mod context */
    int64_t window;   /* ATTENTION: positions a token sees, itself included; 0: all */
    int64_t heads;    /* query heads (ROPE: heads of in[0]; norms: groups of cols elements in in[0]) */
    int64_t kv_heads; /* of the cache */
    int64_t head_dim;
    int64_t rotary_dim;
    int64_t expert;     /* EXPERT, COMBINE: column of in[1], the gates */
    int64_t top_k;      /* ROUTE */
    int64_t normalized; /* ROUTE: whether the gates are divided by their sum */
    int64_t wide;       /* 1: a Q16 buffer, that LINEAR reads in in[0] or QUANTIZE writes; else 0 */
    float f[4]; /* f0 as FORMAT.md says for the op */
} n730_call;

typedef void(N730_ABI *n730_kernel)(const n730_call *call, int64_t begin, int64_t end);

#endif
