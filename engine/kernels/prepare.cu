// Raw frame in, network input out: the arithmetic of engine/prepare.py, one thread an output pixel, no barrier.
//
// What OpenCV does along each axis (area average, cubic, blur, linear) is a banded matrix that engine/bands.py reads off
// OpenCV itself: output k is the sum of `taps` inputs from start[k] on, each times its weight.

struct Bands {
    const int *start;
    const float *weight;
    int taps, size;  // size: of the output
};

// A structure with pointers in it is awkward to hand over from Python: its parts come one by one.
#define BANDS(AXIS) const int *start_##AXIS, const float *weight_##AXIS, int taps_##AXIS, int size_##AXIS
#define DOWN {start_y, weight_y, taps_y, size_y}
#define ACROSS {start_x, weight_x, taps_x, size_x}

static __device__ int thread_index() { return blockIdx.x * blockDim.x + threadIdx.x; }

static __device__ float banded(const float *in, int pitch, const Bands &down, const Bands &across, int row, int column,
                               bool square) {
    const float *weight_y = down.weight + row * down.taps, *weight_x = across.weight + column * across.taps;
    float sum = 0;
    for (int a = 0; a < down.taps; ++a) {
        const float *line = in + (size_t)(down.start[row] + a) * pitch + across.start[column];
        float partial = 0;
        for (int b = 0; b < across.taps; ++b) partial += weight_x[b] * (square ? line[b] * line[b] : line[b]);
        sum += weight_y[a] * partial;
    }
    return sum;
}

// Largest of values that are 0 or more, whose bits order as they do. Looks before it adds to the queue at one address.
static __device__ void raise_to(float *largest, float value) {
    if (value > *(volatile float *)largest) atomicMax((int *)largest, __float_as_int(value));
}

// A count as float32; NaN where there is none: masked, infinite, or beyond what a camera counts.
template <class T> static __device__ float count_at(const T *raw, const unsigned char *mask, int at) {
    float value = (float)raw[at];
    return fabsf(value) < 1e15f && !(mask && mask[at]) ? value : __int_as_float(0x7fc00000);
}

// What a pixel can hold as one group has it, see engine/hot_pixels.py: sums in that order and in float32, as there.
template <class T>
static __device__ float limit_of(const T *raw, const unsigned char *mask, int step, int size, int groups, int group,
                                 float deviations, float means, float steady) {
    float sum = 0, valid = 0, squares = 0;
#pragma unroll 16  // so many loads are on their way together; one after the other they take far longer than the sums
    for (int k = 0; k < size; ++k) {
        float value = count_at(raw, mask, (k * groups + group) * step);
        sum += value == value ? value : 0.0f;
        valid += value == value ? 1.0f : 0.0f;
    }
    float mean = sum / valid;
#pragma unroll 16
    for (int k = 0; k < size; ++k) {
        float away = count_at(raw, mask, (k * groups + group) * step) - mean;
        squares += away == away ? away * away : 0.0f;
    }
    float deviation = sqrtf(squares / valid);
    bool says = deviation > steady * fabsf(mean);
    return says ? mean + fmaxf(deviations * deviation, means * mean) : __int_as_float(0x7f800000);
}

// Of an odd number of values, none NaN.
extern "C" __global__ void median(const float *values, int count, float *out) {
    int at = thread_index();
    if (at >= count) return;
    float value = values[at];
    int before = 0;
    for (int other = 0; other < count; ++other)
        before += values[other] < value || (values[other] == value && other < at);
    if (before == count / 2) *out = value;
}

// Of each dtype: the limit that each group says, and the counts, cut off at the limit that holds.
#define CONVERT(NAME, TYPE)                                                                                         \
    extern "C" __global__ void limits_##NAME(const TYPE *raw, const unsigned char *mask, int step, int size,        \
                                             int groups, float deviations, float means, float steady, float *out) { \
        int group = thread_index();                                                                                 \
        if (group >= groups) return;                                                                                \
        out[group] = limit_of(raw, mask, step, size, groups, group, deviations, means, steady);                     \
    }                                                                                                               \
    extern "C" __global__ void convert_##NAME(const TYPE *raw, const unsigned char *mask, int count,                \
                                              const float *limit, float *out) {                                     \
        int at = thread_index();                                                                                    \
        if (at >= count) return;                                                                                    \
        float value = count_at(raw, mask, at);                                                                      \
        out[at] = value > *limit ? *limit : value;                                                                  \
    }
CONVERT(uint8, unsigned char)
CONVERT(int8, signed char)
CONVERT(uint16, unsigned short)
CONVERT(int16, short)
CONVERT(uint32, unsigned int)
CONVERT(int32, int)
CONVERT(float32, float)

// What the others add to or raise is set on the device, so that one graph of launches holds all of a frame.
extern "C" __global__ void clear(double *sums, float *brightest, float *largest) {
    if (thread_index()) return;
    sums[0] = sums[1] = 0;
    *brightest = *largest = 0;
}

// Sum and number of the counts of an image with holes; each thread adds once what it has gathered.
extern "C" __global__ void total(const float *image, int count, int threads, double *sums) {
    int first = thread_index();
    if (first >= threads) return;
    double sum = 0, valid = 0;
    for (int at = first; at < count; at += threads)
        if (image[at] == image[at]) {
            sum += image[at];
            valid += 1;
        }
    atomicAdd(&sums[0], sum);
    atomicAdd(&sums[1], valid);
}

// Holes take the mean of the smallest neighbourhood that holds a count, and of the whole image beyond 31 pixels.
extern "C" __global__ void fill(const float *image, const double *sums, int height, int width, float *out) {
    int at = thread_index();
    if (at >= height * width) return;
    float value = image[at];
    if (value == value) {
        out[at] = value;
        return;
    }
    int row = at / width, column = at % width;
    for (int reach = 1; reach <= 15; reach = reach == 8 ? 15 : 2 * reach) {
        double sum = 0, valid = 0;
        for (int y = max(row - reach, 0); y <= min(row + reach, height - 1); ++y)
            for (int x = max(column - reach, 0); x <= min(column + reach, width - 1); ++x) {
                float near = image[(size_t)y * width + x];
                if (near == near) {
                    sum += near;
                    valid += 1;
                }
            }
        if (valid > 0) {
            out[at] = (float)(sum / valid);
            return;
        }
    }
    out[at] = sums[1] > 0 ? (float)(sums[0] / sums[1]) : 0.0f;
}

// Resampling, averaging and blurring alike; `square` averages the squares.
extern "C" __global__ void resample(const float *in, int pitch, BANDS(y), BANDS(x), int square, float *out) {
    Bands down = DOWN, across = ACROSS;
    int at = thread_index();
    if (at >= down.size * across.size) return;
    out[at] = banded(in, pitch, down, across, at / across.size, at % across.size, square);
}

// The image less its local level, which is given on the coarse grid.
extern "C" __global__ void flatten(const float *image, const float *level, int pitch, BANDS(y), BANDS(x),
                                   float *brightest, float *out) {
    Bands down = DOWN, across = ACROSS;
    int at = thread_index();
    if (at >= down.size * across.size) return;
    raise_to(brightest, fabsf(image[at]));
    out[at] = image[at] - banded(level, pitch, down, across, at / across.size, at % across.size, false);
}

extern "C" __global__ void root(float *mean_square, int count, float *largest) {
    int at = thread_index();
    if (at >= count) return;
    mean_square[at] = sqrtf(mean_square[at]);
    raise_to(largest, mean_square[at]);
}

// The inverse of the RMS on the coarse grid; all 0 and no contrast for an image that is flat.
extern "C" __global__ void invert(float *rms, int count, const float *brightest, const float *largest, float flat,
                                  int *contrast) {
    int at = thread_index();
    if (at >= count) return;
    bool holds = *largest > flat * fmaxf(1e-30f, *brightest);
    rms[at] = holds ? 1.0f / fmaxf(rms[at], 1e-3f * *largest) : 0.0f;
    if (holds && at == 0) *contrast = 1;
}

// Into the network's input, whose padding stays the 0 it was allocated with.
extern "C" __global__ void normalise(const float *flat, const float *inverse, int pitch, BANDS(y), BANDS(x),
                                     int out_pitch, float *out) {
    Bands down = DOWN, across = ACROSS;
    int at = thread_index();
    if (at >= down.size * across.size) return;
    int row = at / across.size, column = at % across.size;
    out[(size_t)row * out_pitch + column] = flat[at] * banded(inverse, pitch, down, across, row, column, false);
}
