// Maps in, candidates out: one thread a cell, no barrier, so the same text runs on a CPU in the tests.
//
// A candidate is what engine/peaks.py calls a peak before close ones are thinned, with what engine/refine.py says of it.
// Which of close rivals stays depends on whether a rival's rival stays: that chain has no bound, so here a rival is only
// marked, and engine/candidates.py thins the few that are marked with the very function of the CPU path.
//
// Atoms with more neighbours than chemistry allows are rare too, and which of them go is decided in engine/bonds.py: here
// it is only marked where any may be.
//
// Arithmetic follows NumPy's step by step: float where that computes in float32, double where in float64, no fused
// multiply-add (compile with --fmad=false). Decisions are then bit-equal; exp differs in its last bit.

enum { SCORE, PEAK, DY, DX, LOG_SIGMA, CONTAMINATION, CLASSES };
enum { EDGE = 2, CROWDED = 32, RIVAL = 64, OUTSIDE = 128 };

struct Candidate {
    int cell;  // row * width + column: the atomic counter gives an arbitrary order, this sorts it
    float y, x, score, sigma_pm;
    int class_id, flags;
    float peak;     // what close rivals are thinned by
    float covered;  // which of the covered ones count, engine/contamination.py says
};

struct PeaksOf {
    int height, width, pitch, plane;  // cells in use; floats from row to row and from map to map of the padded maps
    int classes, stride, reach, capacity;
    float frame_height, frame_width, scale_y, scale_x;  // frame pixels; frame pixels per network pixel
    float sampling_A, sigma_pm, edge_A;
    double radius2, agree2;  // cells^2, network pixels^2
    float log_sigma_limit;
    int around;     // cells
    int bonds;      // an atom may have so many; below 0: any number
    float bond2;    // A^2
    float at_home;  // network pixels
    int near;       // cells: no two atoms that are at home lie within a bond if their cells are further apart
};

static __device__ int class_of(const float *maps, const PeaksOf &of, int at) {
    int best = 0;
    for (int k = 1; k < of.classes; ++k) {
        float value = maps[(CLASSES + k) * of.plane + at], highest = maps[(CLASSES + best) * of.plane + at];
        if (value > highest || (value != value && highest == highest)) best = k;  // as argmax: the first, NaN above all
    }
    return best;
}

static __device__ bool is_candidate(const float *maps, const float *threshold, const PeaksOf &of, int row, int column) {
    int at = row * of.pitch + column;
    float peak = maps[PEAK * of.plane + at];
    if (!(peak > 0)) return false;  // nearly all cells
    return peak >= threshold[class_of(maps, of, at)];
}

static __device__ bool has_rival(const float *maps, const float *threshold, const PeaksOf &of, int row, int column) {
    for (int dy = -of.reach; dy <= of.reach; ++dy)
        for (int dx = -of.reach; dx <= of.reach; ++dx) {
            int y = row + dy, x = column + dx;
            bool is_near = (dy || dx) && dy * dy + dx * dx <= of.radius2;
            bool exists = y >= 0 && y < of.height && x >= 0 && x < of.width;
            if (is_near && exists && is_candidate(maps, threshold, of, y, x)) return true;
        }
    return false;
}

static __device__ float limited(float log_sigma, float limit) {
    return log_sigma < -limit ? -limit : log_sigma > limit ? limit : log_sigma;  // NaN stays NaN
}

// Network pixels: the mean of what the cell and its eight neighbours predict, of those that agree with the cell itself.
static __device__ void position(const float *maps, const PeaksOf &of, int row, int column, float *y, float *x) {
    int own = row * of.pitch + column;
    float own_dy = maps[DY * of.plane + own], own_dx = maps[DX * of.plane + own];
    float sum_y = 0, sum_x = 0, sum = 0;
    for (int dy = -1; dy <= 1; ++dy)
        for (int dx = -1; dx <= 1; ++dx) {
            int r = row + dy, c = column + dx;
            bool exists = r >= 0 && r < of.height && c >= 0 && c < of.width;
            r = r < 0 ? 0 : r >= of.height ? of.height - 1 : r;
            c = c < 0 ? 0 : c >= of.width ? of.width - 1 : c;
            int at = r * of.pitch + c;
            float predicted_y = (float)(of.stride * dy) + maps[DY * of.plane + at];
            float predicted_x = (float)(of.stride * dx) + maps[DX * of.plane + at];
            float apart_y = predicted_y - own_dy, apart_x = predicted_x - own_dx;
            float apart2 = apart_y * apart_y + apart_x * apart_x;
            float agrees = exists && (double)apart2 <= of.agree2 ? 1.0f : 0.0f;
            // Multiplied, not branched over: a NaN beside a peak spoils its position here as it does in NumPy.
            float weight = agrees * expf(-2.0f * limited(maps[LOG_SIGMA * of.plane + at], of.log_sigma_limit));
            sum_y += predicted_y * weight;
            sum_x += predicted_x * weight;
            sum += weight;
        }
    double centre = (of.stride - 1) / 2.0;
    *y = (float)(of.stride * row + centre + (double)(sum_y / sum));
    *x = (float)(of.stride * column + centre + (double)(sum_x / sum));
}

// Pixels of the frame: outer edges of frame and network input coincide, pixel centres are integers.
static __device__ void in_frame(const PeaksOf &of, float *y, float *x) {
    *y = (*y + 0.5f) * of.scale_y - 0.5f;
    *x = (*x + 0.5f) * of.scale_x - 0.5f;
}

// True where the atom may have too many neighbours, of the candidates whether they stay or not, or where its own position
// (in network pixels) lies so far from its cell that those who look for it near that cell may miss it.
static __device__ bool crowded(const float *maps, const float *threshold, const PeaksOf &of, int row, int column, float y,
                               float x) {
    if (of.bonds < 0) return false;
    double centre = (of.stride - 1) / 2.0;
    float off_y = (float)(y - (of.stride * row + centre)), off_x = (float)(x - (of.stride * column + centre));
    if (!(off_y >= -of.at_home && off_y <= of.at_home && off_x >= -of.at_home && off_x <= of.at_home)) return true;
    in_frame(of, &y, &x);
    float y_A = y * of.sampling_A, x_A = x * of.sampling_A;
    int neighbours = -1;  // itself
    for (int r = row - of.near; r <= row + of.near; ++r)
        for (int c = column - of.near; c <= column + of.near; ++c) {
            bool exists = r >= 0 && r < of.height && c >= 0 && c < of.width;
            if (!exists || !is_candidate(maps, threshold, of, r, c)) continue;
            float other_y, other_x;
            position(maps, of, r, c, &other_y, &other_x);
            in_frame(of, &other_y, &other_x);
            float dy = other_y * of.sampling_A - y_A, dx = other_x * of.sampling_A - x_A;
            neighbours += dy * dy + dx * dx <= of.bond2;
        }
    return neighbours > of.bonds;
}

// Mean contamination of the square that reaches `around` cells to each side, or to the map's edge.
static __device__ float covered(const float *maps, const PeaksOf &of, int row, int column) {
    int top = row < of.around ? 0 : row - of.around, left = column < of.around ? 0 : column - of.around;
    int bottom = row + of.around < of.height ? row + of.around : of.height - 1;
    int right = column + of.around < of.width ? column + of.around : of.width - 1;
    double sum = 0;
    for (int y = top; y <= bottom; ++y)
        for (int x = left; x <= right; ++x) sum += maps[CONTAMINATION * of.plane + y * of.pitch + x];
    return (float)(sum / ((bottom - top + 1) * (right - left + 1)));
}

// 0 or more inside the frame; NaN where there is no position.
static __device__ float distance_to_edge(float y, float x, const PeaksOf &of) {
    float sides[4] = {y + 0.5f, of.frame_height - 0.5f - y, x + 0.5f, of.frame_width - 0.5f - x};
    float nearest = sides[0];
    for (int k = 1; k < 4; ++k)
        if (sides[k] < nearest || sides[k] != sides[k]) nearest = sides[k];
    return nearest;
}

// found[0].cell counts candidates, also those beyond the capacity; they begin at found[1]. Without contrast there is none.
extern "C" __global__ void peaks(const float *maps, const float *threshold, const int *contrast,
                                 const PeaksOf *parameters, Candidate *found) {
    PeaksOf of = *parameters;
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= of.height * of.width || !*contrast) return;
    int row = index / of.width, column = index % of.width, at = row * of.pitch + column;
    if (!is_candidate(maps, threshold, of, row, column)) return;
    int place = atomicAdd(&found[0].cell, 1);
    if (place >= of.capacity) return;
    float y, x;
    position(maps, of, row, column, &y, &x);
    bool many = crowded(maps, threshold, of, row, column, y, x);
    in_frame(of, &y, &x);
    float to_edge = distance_to_edge(y, x, of);
    Candidate candidate;
    candidate.cell = index;
    candidate.y = y;
    candidate.x = x;
    candidate.score = maps[SCORE * of.plane + at];
    candidate.sigma_pm = expf(limited(maps[LOG_SIGMA * of.plane + at], of.log_sigma_limit)) * of.sigma_pm;
    candidate.class_id = class_of(maps, of, at);
    candidate.flags = (to_edge * of.sampling_A < of.edge_A ? EDGE : 0) | (to_edge >= 0 ? 0 : OUTSIDE) |
                      (many ? CROWDED : 0) | (has_rival(maps, threshold, of, row, column) ? RIVAL : 0);
    candidate.peak = maps[PEAK * of.plane + at];
    candidate.covered = covered(maps, of, row, column);
    found[1 + place] = candidate;
}

// The counters of a frame are set on the device, so that one graph of launches holds all of it.
extern "C" __global__ void begin(int *contrast, Candidate *found) {
    if (blockIdx.x * blockDim.x + threadIdx.x) return;
    *contrast = 0;
    found[0].cell = 0;
}
