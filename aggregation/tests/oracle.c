/* The arithmetic of one `float` tensor, written a second time and in another language, so that it is pinned down by
 * what it says and not by what one program happens to do. Build with -ffp-contract=off.
 *
 * Standard input, little-endian:
 *   u64 kind (0 f16, 1 bf16, 2 f32, 3 f64), u64 rule (0 fedbuff, 1 fedavg, 2 median, 3 trimmed-mean), u64 server
 *   (0 none, 1 adam with its defaults, in its first step), u64 trim (how many trimmed-mean cuts off at each end),
 *   u64 every, u64 inputs, u64 elements, f64 eta; per input u64 examples and u64 staleness; the parent (f32 master
 *   values if the kind has 16 bits); per input its elements and its base's elements.
 * Standard output: the new model, the new master if the kind has 16 bits, the optimiser's two f32 moments if there is
 * one, and per input the norm of its movement.
 * Each input is a person's only one, staleness is polynomial:0.5, and nothing is capped or clipped.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *must(void *memory) {
    if (!memory) exit(2);
    return memory;
}

static void take(void *to, size_t size) {
    if (size && fread(to, size, 1, stdin) != 1) exit(3);
}

static uint64_t take_u64(void) {
    uint64_t value;
    take(&value, 8);
    return value;
}

static double take_f64(void) {
    double value;
    take(&value, 8);
    return value;
}

static const size_t SIZE[4] = {2, 2, 4, 8};

/* sign · fraction · 2^exponent, from the fields of a 16-bit float. */
static double widen16(uint16_t bits, int fraction_bits, int bias) {
    int exponent = (bits & 0x7fff) >> fraction_bits;
    int fraction = bits & ((1 << fraction_bits) - 1);
    if (exponent) fraction |= 1 << fraction_bits; else exponent = 1;
    double value = ldexp(fraction, exponent - bias - fraction_bits);
    return bits & 0x8000 ? -value : value;
}

static double widen(uint64_t kind, const uint8_t *at) {
    uint16_t half;
    float single;
    double value;
    switch (kind) {
    case 0: memcpy(&half, at, 2); return widen16(half, 10, 15);
    case 1: memcpy(&half, at, 2); return widen16(half, 7, 127);
    case 2: memcpy(&single, at, 4); return single;
    default: memcpy(&value, at, 8); return value;
    }
}

/* Nearest 16-bit float, ties to even, by cutting the 53-bit integer behind the value and looking at what is lost. */
static uint16_t round16(double value, int fraction_bits, int bias) {
    int exponent;
    uint64_t sign = signbit(value) ? 0x8000 : 0;
    double fraction = frexp(fabs(value), &exponent);
    uint64_t whole = (uint64_t)ldexp(fraction, 53);
    if (!whole) return (uint16_t)sign;
    /* value = whole · 2^(exponent - 53); the unit of the last kept bit is 2^unit. */
    int unit = exponent - 1 - fraction_bits, least = 1 - bias - fraction_bits;
    if (unit < least) unit = least;
    int drop = unit - (exponent - 53);
    uint64_t kept = drop > 63 ? 0 : whole >> drop;
    uint64_t lost = drop > 63 ? 1 : whole & ((UINT64_C(1) << drop) - 1);
    uint64_t half = drop > 63 ? 2 : UINT64_C(1) << (drop - 1);
    if (lost > half || (lost == half && (kept & 1))) kept++;
    uint64_t bits = ((uint64_t)(unit - least) << fraction_bits) + kept;
    return (uint16_t)(sign | bits);
}

static double largest(uint64_t kind) {
    return kind == 0 ? 65504.0 : kind == 1 ? ldexp(255, 120) : kind == 2 ? 3.40282346638528859812e38 : 1.7976931348623157e308;
}

static double hold(double value, double most) {
    return value > most ? most : value < -most ? -most : value;
}

static void put(uint64_t kind, double value, uint8_t *at) {
    float single = (float)value;
    uint16_t half;
    switch (kind) {
    case 0: half = round16(value, 10, 15); memcpy(at, &half, 2); break;
    case 1: half = round16(value, 7, 127); memcpy(at, &half, 2); break;
    case 2: memcpy(at, &single, 4); break;
    default: memcpy(at, &value, 8);
    }
}

/* The sum of squares of one run of at most 4,096 differences. */
static double run_sum(uint64_t kind, const uint8_t *input, const uint8_t *base, uint64_t count) {
    double lanes[16] = {0};
    for (uint64_t k = 0; k < count; k++) {
        double difference = widen(kind, input + k * SIZE[kind]) - widen(kind, base + k * SIZE[kind]);
        double square = difference * difference;
        lanes[k % 16] += square;
    }
    for (int half = 8; half; half /= 2)
        for (int lane = 0; lane < half; lane++) lanes[lane] += lanes[lane + half];
    return lanes[0];
}

/* Runs from..to: the left branch is the largest power of two that leaves something to the right. */
static double tree_sum(uint64_t kind, const uint8_t *input, const uint8_t *base, uint64_t elements, uint64_t from, uint64_t to) {
    if (to - from == 1) {
        uint64_t start = from * 4096, count = elements - start < 4096 ? elements - start : 4096;
        return run_sum(kind, input + start * SIZE[kind], base + start * SIZE[kind], count);
    }
    uint64_t left = 1;
    while (left * 2 < to - from) left *= 2;
    return tree_sum(kind, input, base, elements, from, from + left) + tree_sum(kind, input, base, elements, from + left, to);
}

/* The sum of what is given, the middle, or the mean of what is left; `numbers` are sorted in place. */
static double direction(uint64_t rule, double divisor, uint64_t trim, double *numbers, uint64_t count) {
    double sum = 0;
    if (rule < 2) {
        for (uint64_t i = 0; i < count; i++) sum += numbers[i];
        return sum / divisor;
    }
    for (uint64_t i = 1; i < count; i++)
        for (uint64_t k = i; k && numbers[k] < numbers[k - 1]; k--) {
            double lower = numbers[k];
            numbers[k] = numbers[k - 1];
            numbers[k - 1] = lower;
        }
    if (rule == 2) {
        double upper = numbers[count / 2] * 0.5, lower = numbers[count / 2 - 1 + count % 2] * 0.5;
        return count % 2 ? numbers[count / 2] : lower + upper;
    }
    for (uint64_t i = trim; i < count - trim; i++) sum += numbers[i];
    return sum / (double)(count - 2 * trim);
}

static double to_single(double value) { return (float)hold(value, largest(2)); }

int main(void) {
    uint64_t kind = take_u64(), rule = take_u64(), server = take_u64(), trim = take_u64();
    uint64_t every = take_u64(), inputs = take_u64(), elements = take_u64();
    double eta = take_f64(), divisor = 0;
    size_t size = SIZE[kind], parent_size = size == 2 ? 4 : size;
    double *weights = must(calloc(inputs + 1, sizeof *weights));
    for (uint64_t i = 0; i < inputs; i++) {
        double examples = (double)take_u64(), late = (double)take_u64();
        double discount = 1.0 / sqrt(1.0 + late);
        weights[i] = rule == 1 ? examples * discount : discount;
        divisor += examples;
    }
    if (rule == 0) divisor = (double)(inputs > every ? inputs : every);

    uint8_t *parent = must(malloc(elements * parent_size + 1));
    take(parent, elements * parent_size);
    double *terms = must(calloc(inputs * elements + 1, sizeof *terms)), *norms = must(calloc(inputs + 1, sizeof *norms));
    uint8_t *input = must(malloc(elements * size + 1)), *base = must(malloc(elements * size + 1));
    for (uint64_t i = 0; i < inputs; i++) {
        take(input, elements * size);
        take(base, elements * size);
        for (uint64_t k = 0; k < elements; k++) {
            double difference = widen(kind, input + k * size) - widen(kind, base + k * size);
            /* Sums start from 0, so that none of them is -0. */
            terms[k * inputs + i] = 0.0 + weights[i] * difference;
        }
        norms[i] = elements ? sqrt(tree_sum(kind, input, base, elements, 0, (elements + 4095) / 4096)) : 0;
    }

    uint8_t *model = must(malloc(elements * size + 1));
    float *momentum = must(calloc(elements + 1, sizeof *momentum)), *variance = must(calloc(elements + 1, sizeof *variance));
    for (uint64_t k = 0; k < elements; k++) {
        uint64_t parent_kind = size == 2 ? 2 : kind;
        double value = widen(parent_kind, parent + k * parent_size);
        double step = direction(rule, divisor, trim, terms + k * inputs, inputs);
        if (server) {
            /* Adam: beta1 0.9, beta2 0.99, tau 0.001; m was 0 and v was tau squared. */
            double old = 0.9 * 0.0, new = (1.0 - 0.9) * step, square = step * step;
            momentum[k] = (float)to_single(old + new);
            old = 0.99 * (0.001 * 0.001);
            new = (1.0 - 0.99) * square;
            variance[k] = (float)to_single(old + new);
            step = (double)momentum[k] / (sqrt((double)variance[k]) + 0.001);
        }
        if (step != 0) {
            double scaled = eta * step;
            value = hold(value + scaled, largest(kind));
        }
        put(parent_kind, value, parent + k * parent_size);
        put(kind, widen(parent_kind, parent + k * parent_size), model + k * size);
    }
    fwrite(model, size, elements, stdout);
    if (size == 2) fwrite(parent, 4, elements, stdout);
    if (server) {
        fwrite(momentum, sizeof *momentum, elements, stdout);
        fwrite(variance, sizeof *variance, elements, stdout);
    }
    fwrite(norms, 8, inputs, stdout);
    return fflush(stdout) ? 4 : 0;
}
