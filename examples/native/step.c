// A stream in C, without Python: a GRU of 16 units and a head, run sample by sample, and what a step takes.
//
// From the project's root, the library and this program:
//
//   cc -std=gnu11 -O2 -fPIC -fvisibility=hidden -shared -pthread -Icsrc -o build/libfastrnn.so csrc/*.c csrc/isa/*.c
//   cc -std=gnu11 -O2 -Icsrc -o build/step examples/native/step.c build/libfastrnn.so
//
//   build/step WEIGHTS SIGNAL > OUTPUT
//
// WEIGHTS holds the arrays of fastrnn.GRU(1, 16) and fastrnn.Linear(16, 1), in the order of their
// `parameters`, as floats one after the other; in Python:
//
//   with open("weights", "wb") as file:
//       for array in model.parameters.values():
//           array.tofile(file)
//
// SIGNAL and OUTPUT are floats, one a sample. Times go to the standard error.

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "fastrnn.h"

enum { I = 1, H = 16, O = 1, G = 3 };

static void fail(const char *why)
{
    fprintf(stderr, "step: %s\n", why);
    exit(1);
}

/* The numbers of a file, and how many there are. */
static float *read_floats(const char *path, size_t *count)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END))
        fail("a file cannot be read");
    *count = (size_t)ftell(file) / sizeof(float);
    rewind(file);
    float *found = malloc((*count + 1) * sizeof(float));
    if (!found || fread(found, sizeof(float), *count, file) != *count)
        fail("a file cannot be read");
    fclose(file);
    return found;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        fail("expected two files: weights, and a signal");
    size_t count, samples;
    float *weights = read_floats(argv[1], &count);
    float *signal = read_floats(argv[2], &samples);
    const size_t sizes[] = {G * H * I, G * H * H, G * H, G * H, O * H, O};
    const float *arrays[6], *next = weights;
    for (int k = 0; k < 6; k++) {
        arrays[k] = next;
        next += sizes[k];
    }
    if ((size_t)(next - weights) != count)
        fail("these are not the weights of a GRU(1, 16) and a Linear(16, 1)");

    const fastrnn_pass gru = {.cell = FASTRNN_GRU_AFTER, .real_bytes = sizeof(float), .I = I, .H = H,
                              .w_ih = arrays[0], .w_hh = arrays[1], .b_ih = arrays[2], .b_hh = arrays[3]};
    const fastrnn_network network = {.B = 1, .layers = &gru, .count = 1, .real_bytes = sizeof(float),
                                     .O = O, .w_o = arrays[4], .b_o = arrays[5]};
    fastrnn_stream *stream = fastrnn_stream_new(&network, NULL);
    if (!stream)
        fail("no memory");
    free(weights); /* the stream has its own, packed */

    /* From here on nothing is allocated, nobody is waited for, and no page is touched the first time. */
    float *output = signal; /* overwritten, sample by sample */
    const double start = now();
    for (size_t k = 0; k < samples; k++) {
        float y;
        fastrnn_stream_step(stream, &signal[k], &y);
        output[k] = y;
    }
    const double taken = now() - start;

    fastrnn_stream_free(stream);
    fprintf(stderr, "%zu steps, %.3f us each (%s)\n", samples,
            samples ? 1e6 * taken / (double)samples : 0.0, fastrnn_isa_name(fastrnn_isa()));
    if (fwrite(output, sizeof(float), samples, stdout) != samples)
        fail("the output cannot be written");
    free(signal);
    return 0;
}
