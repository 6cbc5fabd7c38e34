/* The kernels of one .cu file, by name; emulator.py writes the table behind the kernels' text. */
#ifndef N730_REGISTRY_H
#define N730_REGISTRY_H
#include "cuda_on_cpu.h"

namespace emulator {
struct Entry {
    const char *name;
    void (*run)(const void *call, unsigned grid_x, unsigned grid_y, unsigned threads); /* throws Fault */
};
} // namespace emulator
extern "C" __attribute__((visibility("default"))) const emulator::Entry n730_registry[]; /* ends with a null name */
#endif
