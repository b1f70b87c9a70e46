// step.cu on the host, as a program that does what it reads on its standard input: a stand-in for a device, whose memory
// is its own. A request is a word that says what, and words and bytes that say with what; tests/cuda_source.rs writes them.

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "shim.h"

#include "../../src/kernel/cuda/step.cu"

enum Request { ALLOCATE, WRITE, READ, LAUNCH, BACKWARDS };

static void (*const kernels[])(const Args) = {
    fadam_open,            fadam_measure,        fadam_squares, fadam_lines, fadam_factors,
    fadam_finish_gradient, fadam_finish_measure, fadam_apply,   fadam_close,
};

static void read_bytes(void *to, size_t bytes) {
    if (std::fread(to, 1, bytes, stdin) != bytes) std::exit(1);
}

static u64 read_word() {
    u64 word;
    read_bytes(&word, sizeof word);
    return word;
}

static void launch() {
    const u64 kernel = read_word(), blocks = read_word();
    Args args;
    read_bytes(&args, sizeof args);
    for (u64 k = 0; k < blocks; k++) {
        blockIdx.x = (u32)(backwards ? blocks - 1 - k : k);
        kernels[kernel](args);
    }
}

int main() {
    std::vector<void *> memory;
    u64 request;
    while (std::fread(&request, sizeof request, 1, stdin) == 1) {
        switch (request) {
            case ALLOCATE: {
                memory.push_back(std::calloc(1, read_word()));
                const u64 address = (u64)memory.back();
                std::fwrite(&address, sizeof address, 1, stdout);
                break;
            }
            case WRITE: {
                char *const to = (char *)read_word();
                read_bytes(to, read_word());
                break;
            }
            case READ: {
                const char *const from = (const char *)read_word();
                std::fwrite(from, 1, read_word(), stdout);
                break;
            }
            case LAUNCH: launch(); break;
            case BACKWARDS: backwards = read_word() != 0; break;
            default: return 1;
        }
        std::fflush(stdout);
    }
    for (void *block : memory) std::free(block);
    return 0;
}
