/* The one calling convention of all CUDA kernels: a single argument of this type, by value.
 *
 * Shapes are constants of each kernel; what changes from call to call is here. blockIdx.x counts blocks of tokens and
 * blockIdx.y blocks of work items, which FORMAT.md, section 2, defines for each op as it does for CPU kernels: a part
 * of a matrix's tiles is begin … end − 1. Buffers, caches and weights have the layout of FORMAT.md: weights are the
 * file's own bytes, big-endian, so that what comes from the disk crosses the bus as it is. */
#ifndef N730_CUDA_CALL_H
#define N730_CUDA_CALL_H

typedef struct n730_cuda_call {
    const unsigned char *in[2]; /* inputs: first byte of the first token of this call */
    unsigned char *out;         /* output, likewise */
    const unsigned char *weight; /* tensor bytes as in the file, 64-byte aligned */
    const unsigned char *bias;   /* f32 big-endian [rows] or NULL */
    unsigned char *k_cache, *v_cache; /* KV_STORE, ATTENTION */
    const int *ids;              /* EMBED: token ids [tokens], or NULL: the positions */
    long long in_stride[2];      /* bytes from one token to the next */
    long long out_stride;
    int tokens;     /* in this call, at least 1 */
    int position;   /* of the first token in the sequence */
    int context;    /* positions that the cache holds; position p is in row p mod context */
    int begin, end; /* work items */
    int expert;     /* EXPERT, COMBINE */
    float f0, f1;   /* as FORMAT.md says for the op */
} n730_cuda_call;

#endif
