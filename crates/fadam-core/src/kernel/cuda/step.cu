// The fused optimizer step on a CUDA device: Algorithms 1 to 4 over many tensors at once.
//
// NVRTC compiles this file at run time, and tests/cuda_source.rs compiles it as host C++, so it includes nothing and
// converts bf16 and f16 by their bits. The host uploads tables of 8-byte words and reads nothing back during a step,
// whose launches are, in order:
//
//   open             β̂2 and the bias corrections of each tensor, from t less the steps that were cancelled
//   measure          Σ g'², Σ x², Σ w², Σ u² of each chunk with ε̂ = ε, where f is kept element by element
//   squares          Σ g'² and the row and column sums of each chunk, where f is factored
//   lines, factors   the new R and C, held aside, and (R/ΣR)^ρ and C^ρ
//   finish_gradient  ε̂ of each tensor, and whether f32 can hold its step
//   measure          again where ε̂ < ε or f32 could not hold it, and for the first time where f is factored
//   finish_measure   the three clipping factors
//   apply            only to see whether the result can be stored, where the sums do not say so
//   apply            f (R, C), m and θ; nothing if any tensor is not finite
//   close            counts a cancelled step
//
// Sums are f64, of a fixed partition in a fixed order, so a step gives the same bits every time.

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// A block is WARPS rows of LANES threads, and a chunk is at most TILE elements. table.rs has the same numbers.
#define LANES 32
#define WARPS 8
#define THREADS (LANES * WARPS)
#define TILE_ROWS 32
#define TILE_COLUMNS 256
#define TILE (TILE_ROWS * TILE_COLUMNS)
// Columns of a line block. Its rows are THREADS, of one matrix if that has more than SHORT rows.
#define LINE_COLUMNS LANES
#define SHORT 32

// What every thread does between two barriers. The host's own version runs the body for each thread in turn.
#ifndef EACH_THREAD
#define EACH_THREAD(thread) for (u32 thread = threadIdx.x, once = 1; once; once = 0, __syncthreads())
#endif

// ---- What table.rs and session.rs write, word by word

enum Dtype { F32, BF16, F16, F64 };
// FULL: f is kept element by element. TILES: a chunk is a tile of one matrix. PACKED: whole small matrices.
enum Shape { FULL, TILES, PACKED };
enum Squares { OF_GRADIENT, GIVEN, SAMPLED };
enum Kind { PRECONDITIONED, ADAM };
// What is not finite, or squares that are negative, in the order in which one tensor's are reported.
enum What { GRADIENT, NEGATIVE, IN_F, IN_R, IN_C, IN_M, IN_THETA, WHATS };

struct Tensor {
    void *theta, *m, *f, *r, *c;
    const void *g, *squares, *auxiliary;  // auxiliary is null without one
    u64 *missed;                          // cancelled steps of this parameter
    double scale;                         // what GIVEN squares are multiplied by, and those of SAMPLED
    u64 dtype, squares_kind, rule, slot;
    u64 shape, count, outer, n, width;    // `outer` matrices of n × width
    u64 first_chunk, chunks;
    u64 down, across;                     // tiles of a matrix; 1 and 1 if PACKED
    u64 per;                              // matrices of a PACKED chunk
    u64 row_lines;                        // line blocks that are of rows; the rest are of columns
    u64 rows, row_factors, columns, column_factors, row_parts, column_parts, totals;  // where in scratch
};

struct Numbers {
    double kind, beta2, t, offset, eps, eps2, rho, clip, beta1, share, step, decay, aux, gamma, on_manifold;
};

struct Status {
    u64 sticky;     // whether all steps after a bad one are cancelled until the host has looked
    u64 halted;     // whether that is so now
    u64 bad;        // slot · WHATS + What of the first that is not finite in this step, or NONE
    u64 first;      // `bad` of the first cancelled step, or NONE
    u64 cancelled;  // steps
};
#define NONE (~0ull)

// What the kernels of one step tell one another of a tensor.
struct Plan {
    double beta, fresh;                 // β and 1 − β of f
    double eps_hat, floor;              // ε̂ and ε̂^{2ρ}; ε of Adam
    double m_correction, f_correction;  // 1/(1 − β1^t), 1/(1 − β2^t)
    double x, w, u;                     // what the clipping multiplies by
    double rms_g, rms_x, rms_w, rms_u;
    u64 careful;                        // computed in f64, though stored in less
    u64 again;                          // measured once more
};

struct Args {
    const Tensor *tensors;
    const Numbers *rules;
    const u64 *chunks, *lines;  // the tensor in the high half of a word, its chunk or line block in the low half
    Plan *plans;
    double *partial;  // Σ g'², Σ x², Σ w², Σ u² of each chunk
    double *scratch;
    Status *status;
    u64 tensor_count, chunk_count;
    u64 second;  // measure and apply are launched twice
};

static_assert(sizeof(Tensor) == 8 * 32 && sizeof(Numbers) == 8 * 15 && sizeof(Plan) == 8 * 15, "the words of table.rs");
static_assert(sizeof(Status) == 8 * 5 && sizeof(Args) == 8 * 11, "the words of session.rs");

// ---- Numbers as they are stored

struct Bf16 { u16 bits; };
struct Half { u16 bits; };
// Of f64 parameters, and of any whose step f32 cannot hold: what it is stored in is looked up at every access.
struct Wide { double x; };

// What m, f, R and C are stored in, and what a step is computed in.
template <class P> struct Of {
    typedef float State, Compute;
    enum { BATCH = 4 };  // elements that a thread loads before it uses the first, to have several loads in flight
};
template <> struct Of<Wide> {
    typedef Wide State;
    typedef double Compute;
    enum { BATCH = 1 };
};

__device__ inline float widen(float x) { return x; }
__device__ inline double widen(Wide x) { return x.x; }
__device__ inline float widen(Bf16 x) { return __uint_as_float((u32)x.bits << 16); }

__device__ inline float widen(Half x) {
    const u32 sign = (u32)(x.bits & 0x8000) << 16, exponent = (x.bits >> 10) & 31, fraction = x.bits & 1023;
    if (exponent == 0) {
        const float size = (float)fraction * 5.9604644775390625e-8f;  // 2^-24
        return sign ? -size : size;
    }
    const u32 size = exponent == 31 ? 0x7f800000u : (exponent + 112) << 23;
    return __uint_as_float(sign | size | (fraction << 13));
}

// To the nearest, ties to even.
__device__ inline void narrow(float x, float &to) { to = x; }

__device__ inline void narrow(float x, Bf16 &to) {
    const u32 bits = __float_as_uint(x);
    const bool nan = (bits & 0x7fffffff) > 0x7f800000;
    to.bits = nan ? 0x7fc0 : (u16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

__device__ inline void narrow(float x, Half &to) {
    const u32 bits = __float_as_uint(x), size = bits & 0x7fffffff;
    u32 half;
    if (size > 0x7f800000) {
        half = 0x7e00;
    } else if (size >= 0x477ff000) {  // 65520, half way to what would be next
        half = 0x7c00;
    } else if (size < 0x38800000) {  // below 2^-14: as many 2^-24, rounded by adding 1.5 · 2^23
        half = __float_as_uint(__uint_as_float(size) * 16777216.0f + 12582912.0f) & 0x7ff;
    } else {
        half = (size + 0xfff + ((size >> 13) & 1) - (112u << 23)) >> 13;
    }
    to.bits = (u16)(half | ((bits >> 16) & 0x8000));
}

template <class P> __device__ inline P fetch(const void *from, u64 at, u64) { return ((const P *)from)[at]; }

template <> __device__ inline Wide fetch<Wide>(const void *from, u64 at, u64 dtype) {
    switch (dtype) {
        case F64: return {((const double *)from)[at]};
        case BF16: return {widen(((const Bf16 *)from)[at])};
        case F16: return {widen(((const Half *)from)[at])};
        default: return {((const float *)from)[at]};
    }
}

template <class P> __device__ inline void put(void *to, u64 at, u64, float x) { narrow(x, ((P *)to)[at]); }

template <class P> __device__ inline void put(void *to, u64 at, u64 dtype, double x) {
    switch (dtype) {
        case F64: ((double *)to)[at] = x; break;
        case BF16: narrow((float)x, ((Bf16 *)to)[at]); break;
        case F16: narrow((float)x, ((Half *)to)[at]); break;
        default: ((float *)to)[at] = (float)x;
    }
}

__device__ inline u64 state_dtype(const Tensor &t) { return t.dtype == F64 ? F64 : F32; }

template <class T> __device__ inline bool is_finite(T x) { return x - x == 0; }

// Whether x is finite once it is stored.
__device__ inline bool can_store(u64 dtype, double x) {
    double aligned;
    put<Wide>(&aligned, 0, dtype, x);
    return is_finite(widen(fetch<Wide>(&aligned, 0, dtype)));
}

__device__ inline u64 least(u64 a, u64 b) { return a < b ? a : b; }
__device__ inline double larger(double a, double b) { return a > b ? a : b; }

// 1/d, and 0 for 0: x / 0 counts as 0. A NaN stays one.
template <class C> __device__ inline C inverse(C d) { return d == 0 ? (C)0 : (C)1 / d; }

__device__ inline float root(float x) { return sqrtf(x); }
__device__ inline double root(double x) { return sqrt(x); }
// Not inlined: a power is a hundred instructions, and NVRTC takes seconds over its copies.
__device__ __noinline__ float raise_to(float x, float rho) { return powf(x, rho); }
__device__ __noinline__ double raise_to(double x, double rho) { return pow(x, rho); }

// f^ρ
template <class C> __device__ inline C power(C f, C rho) {
    return rho == (C)0.5 ? root(f) : rho == (C)1 ? f : raise_to(f, rho);
}

// ---- One element

// The rule of one tensor in the compute type.
template <class C> struct Rule {
    C beta, fresh, offset, floor, rho, beta1, share, step, decay, aux, gamma, scale, m_correction, f_correction;
    bool adam, on_manifold, factored;

    __device__ Rule(const Tensor &t, const Numbers &n, const Plan &p) {
        adam = n.kind == ADAM;
        on_manifold = n.on_manifold != 0;
        factored = t.shape != FULL;
        beta = (C)p.beta, fresh = (C)p.fresh, offset = (C)n.offset, floor = (C)p.floor, rho = (C)n.rho;
        beta1 = (C)n.beta1, gamma = (C)n.gamma, scale = (C)t.scale;
        m_correction = (C)p.m_correction, f_correction = (C)p.f_correction;
        // In Algorithms 1, 2 and 4 the clipped gradient goes into m, in Algorithm 3 it comes out of it.
        share = (C)(adam ? n.share : n.share * p.x);
        step = (C)(adam ? n.step * p.x : n.step);
        decay = (C)(n.decay * p.w), aux = (C)(n.aux * p.u);
    }
};

template <class C> struct Element {
    C g, q, theta, m, f, power, a;  // power: f^ρ where f is factored
};

template <class C> struct Direction {
    C f, m, d, x, w, u;
};

template <class C> __device__ inline Direction<C> direction(const Rule<C> &r, const Element<C> &v) {
    Direction<C> y;
    y.f = r.beta * v.f + r.fresh * (v.q + r.offset);
    y.m = r.beta1 * v.m;
    if (r.adam) {
        y.m = y.m + r.share * v.g;
        y.d = root(y.f * r.f_correction) + r.floor;
    } else {
        y.d = (r.factored ? v.power : power(y.f, r.rho)) + r.floor;
    }
    const C inverted = inverse(y.d);
    y.x = (r.adam ? y.m * r.m_correction : v.g) * inverted;
    y.w = r.on_manifold ? v.theta * inverted : v.theta;
    y.u = v.a * inverted;
    if (!r.adam) y.m = y.m + r.share * y.x;
    return y;
}

template <class C> __device__ inline C new_theta(const Rule<C> &r, const Element<C> &v, const Direction<C> &y) {
    return v.theta - (r.step * (r.adam ? y.x : y.m) + r.decay * y.w + r.aux * y.u);
}

// ---- Chunks

// The elements of a chunk, as rows of at most TILE_COLUMNS; `row` and `column` count over all matrices.
struct Span {
    u64 base, end, stride, row, column;
    u32 rows, columns;
};

__device__ inline Span span_of(const Tensor &t, u64 chunk) {
    Span s;
    if (t.shape == TILES) {
        const u64 matrix = chunk / (t.down * t.across), tile = chunk % (t.down * t.across);
        const u64 first_row = tile / t.across * TILE_ROWS, first_column = tile % t.across * TILE_COLUMNS;
        s.row = matrix * t.n + first_row;
        s.column = matrix * t.width + first_column;
        s.rows = (u32)least(TILE_ROWS, t.n - first_row);
        s.columns = (u32)least(TILE_COLUMNS, t.width - first_column);
        s.base = s.row * t.width + first_column;
        s.end = t.count;
        s.stride = t.width;
        return s;
    }
    const u64 size = t.shape == FULL ? TILE : t.per * t.n * t.width;
    s.row = chunk * t.per * t.n;
    s.column = chunk * t.per * t.width;
    s.base = chunk * size;
    s.end = least(s.base + size, t.count);
    s.rows = (u32)((s.end - s.base + TILE_COLUMNS - 1) / TILE_COLUMNS);
    s.columns = TILE_COLUMNS;
    s.stride = TILE_COLUMNS;
    return s;
}

// The numbers of an element as they are stored. A batch of them is loaded before the first is looked at.
template <class P> struct Stored {
    u64 at;
    bool inside;
    P g, theta, sampled, a;
    typename Of<P>::State m, f, given;
    double row_factor, column_factor;
};

template <class P>
__device__ inline void load_factors(const Args &a, const Tensor &t, const Span &s, u32 row, u32 column, Stored<P> &v) {
    u64 i = s.row + row, j = s.column + column;
    if (t.shape == PACKED) {
        const u32 local = row * TILE_COLUMNS + column, width = (u32)t.width;
        const u32 local_row = local / width, matrix = local_row / (u32)t.n;
        i = s.row + local_row;
        j = s.column + matrix * width + local % width;
    }
    v.row_factor = a.scratch[t.row_factors + i];
    v.column_factor = a.scratch[t.column_factors + j];
}

// What the rule needs of an element; to MEASURE, θ only if the weight decay is on the manifold, and m only of Adam.
template <bool MEASURE, class P, class C>
__device__ inline Stored<P> stored(
    const Args &a, const Tensor &t, const Rule<C> &r, const Span &s, u32 row, u32 column
) {
    typedef typename Of<P>::State S;
    const u64 dtype = t.dtype, state = state_dtype(t);
    Stored<P> v = {};
    v.at = s.base + row * s.stride + column;
    v.inside = column < s.columns && v.at < s.end;
    if (!v.inside) return v;
    v.g = fetch<P>(t.g, v.at, dtype);
    if (!MEASURE || r.on_manifold) v.theta = fetch<P>(t.theta, v.at, dtype);
    if (!MEASURE || r.adam) v.m = fetch<S>(t.m, v.at, state);
    if (r.factored) {
        load_factors(a, t, s, row, column, v);
    } else {
        v.f = fetch<S>(t.f, v.at, state);
        if (t.squares_kind == GIVEN) v.given = fetch<S>(t.squares, v.at, state);
        if (t.squares_kind == SAMPLED) v.sampled = fetch<P>(t.squares, v.at, dtype);
    }
    if (t.auxiliary) v.a = fetch<P>(t.auxiliary, v.at, dtype);
    return v;
}

template <class P, class C>
__device__ inline Element<C> element(const Tensor &t, const Rule<C> &r, const Stored<P> &v) {
    Element<C> e;
    e.g = r.gamma * widen(v.g);
    e.theta = widen(v.theta);
    e.m = widen(v.m);
    e.f = widen(v.f);
    e.a = r.gamma * widen(v.a);
    e.power = (C)v.row_factor * (C)v.column_factor;
    const C sampled = widen(v.sampled);
    e.q = t.squares_kind == SAMPLED ? r.scale * sampled * sampled
        : t.squares_kind == GIVEN   ? r.scale * widen(v.given)
                                    : e.g * e.g;
    return e;
}

// Calls `use` with where it is and its numbers for each element of a chunk that is this thread's.
template <bool MEASURE, class P, class C, class Use>
__device__ inline void walk(const Args &a, const Tensor &t, const Rule<C> &r, u64 chunk, u32 thread, Use use) {
    const u32 BATCH = Of<P>::BATCH;
    const Span s = span_of(t, chunk);
    for (u32 row = thread / LANES; row < s.rows; row += WARPS) {
        for (u32 first = thread % LANES; first < s.columns; first += BATCH * LANES) {
            Stored<P> batch[BATCH];
#pragma unroll
            for (u32 k = 0; k < BATCH; k++) batch[k] = stored<MEASURE, P>(a, t, r, s, row, first + k * LANES);
#pragma unroll
            for (u32 k = 0; k < BATCH; k++) {
                if (batch[k].inside) use(batch[k].at, element(t, r, batch[k]));
            }
        }
    }
}

// Calls function<P> with the type that a tensor is stored in, or with Wide.
#define BY_TYPE(dtype, careful, function, ...)                 \
    switch ((careful) ? (u64)F64 : (dtype)) {                  \
        case F64: function<Wide>(__VA_ARGS__); break;          \
        case BF16: function<Bf16>(__VA_ARGS__); break;         \
        case F16: function<Half>(__VA_ARGS__); break;          \
        default: function<float>(__VA_ARGS__);                 \
    }

// Adds up each of K rows of THREADS numbers into its first.
template <u32 K> __device__ inline void reduce(double (*sums)[THREADS]) {
    for (u32 half = THREADS / 2; half > 0; half /= 2) {
        EACH_THREAD(thread) {
            if (thread < half) {
                for (u32 k = 0; k < K; k++) sums[k][thread] += sums[k][thread + half];
            }
        }
    }
}

__device__ inline void report(const Args &a, const Tensor &t, What what) {
    atomicMin(&a.status->bad, t.slot * WHATS + what);
}

// ---- open

// Whether f32 cannot be trusted: f, as small as ε̂², or ε̂^{2ρ} is no f32 any more. Otherwise g/d and θ/d are f32s.
// An auxiliary or a sampled gradient is not looked at: one beyond 1e18 may be found not finite in f32.
__device__ inline bool needs_care(const Tensor &t, const Numbers &n, double eps_hat, double floor) {
    if (t.dtype == F64) return false;
    if (n.kind == ADAM) return n.eps < 1e-14;
    return n.offset > 0 ? n.offset < 1e-32 : eps_hat < 1e-14 || floor < 1e-20;
}

__device__ inline void open(const Args &a, u64 index) {
    const Tensor &t = a.tensors[index];
    const Numbers &n = a.rules[t.rule];
    const double step = n.t - (double)*t.missed, decayed = pow(n.beta2, step);
    Plan p;
    p.beta = n.kind == ADAM ? n.beta2 : n.beta2 * (1 - pow(n.beta2, step - 1)) / (1 - decayed);
    p.fresh = 1 - p.beta;
    p.eps_hat = n.eps;
    p.floor = n.kind == ADAM ? n.eps : pow(n.eps, 2 * n.rho);
    p.m_correction = 1 / (1 - pow(n.beta1, step));
    p.f_correction = 1 / (1 - decayed);
    p.x = p.w = p.u = 1;
    p.rms_g = p.rms_x = p.rms_w = p.rms_u = 0;
    p.careful = needs_care(t, n, p.eps_hat, p.floor);
    p.again = 0;
    a.plans[index] = p;
}

extern "C" __global__ void __launch_bounds__(THREADS) fadam_open(const Args a) {
    if (a.status->halted) return;
    EACH_THREAD(thread) {
        const u64 index = (u64)blockIdx.x * THREADS + thread;
        if (index < a.tensor_count) open(a, index);
    }
}

// ---- measure

template <class P>
__device__ void measure(const Args &a, const Tensor &t, const Plan &p, u64 chunk, u32 thread, double (*sums)[THREADS]) {
    typedef typename Of<P>::Compute C;
    const Rule<C> r(t, a.rules[t.rule], p);
    double g2 = 0, x2 = 0, w2 = 0, u2 = 0;
    walk<true, P>(a, t, r, chunk, thread, [&](u64, const Element<C> &v) {
        const Direction<C> y = direction(r, v);
        if (v.q < 0) report(a, t, NEGATIVE);
        const double g = v.g, x = y.x, w = r.on_manifold ? (double)y.w : 0.0, u = y.u;
        g2 += is_finite(g) ? g * g : g - g;  // NaN, where an overflow of g² gives infinity
        x2 += is_finite(y.d) ? x * x : y.d - y.d;
        w2 += w * w;
        u2 += u * u;
    });
    sums[0][thread] = g2, sums[1][thread] = x2, sums[2][thread] = w2, sums[3][thread] = u2;
}

extern "C" __global__ void __launch_bounds__(THREADS) fadam_measure(const Args a) {
    __shared__ double sums[4][THREADS];
    const u64 entry = a.chunks[blockIdx.x];
    const Tensor t = a.tensors[entry >> 32];
    const Plan p = a.plans[entry >> 32];
    const bool wanted = a.second ? t.shape != FULL || p.again : t.shape == FULL;
    if (a.status->halted || !wanted) return;
    EACH_THREAD(thread) {
        BY_TYPE(t.dtype, p.careful, measure, a, t, p, (u32)entry, thread, sums);
    }
    reduce<4>(sums);
    EACH_THREAD(thread) {
        // Σ g'² is known the second time: of a factored tensor from `squares`.
        if (thread < 4 && !(a.second && thread == 0)) a.partial[(u64)blockIdx.x * 4 + thread] = sums[thread][0];
    }
}

// ---- squares

struct Tile {
    double rows[TILE_ROWS][LANES + 1];  // one more, so that the lanes' columns lie in different banks
    double columns[WARPS][TILE_COLUMNS];
    double g2[1][THREADS];
};

// What an element's squares are made of, as it is stored.
template <class P> struct Given {
    P g, sampled;
    typename Of<P>::State squares;
};

template <class P> __device__ inline Given<P> given(const Tensor &t, u64 at) {
    Given<P> v = {};
    v.g = fetch<P>(t.g, at, t.dtype);
    if (t.squares_kind == GIVEN) v.squares = fetch<typename Of<P>::State>(t.squares, at, state_dtype(t));
    if (t.squares_kind == SAMPLED) v.sampled = fetch<P>(t.squares, at, t.dtype);
    return v;
}

// What f is made of, and g'².
struct Pair { double q, g2; };

template <class P>
__device__ inline Pair squared(const Args &a, const Tensor &t, double gamma, const Given<P> &v) {
    const double g = gamma * widen(v.g), sampled = widen(v.sampled);
    const double q = t.squares_kind == SAMPLED ? t.scale * sampled * sampled
        : t.squares_kind == GIVEN              ? t.scale * widen(v.squares)
                                               : g * g;
    if (q < 0) report(a, t, NEGATIVE);
    return {q, is_finite(g) ? g * g : g - g};
}

// A thread's columns are LANES apart, and its rows WARPS.
template <class P>
__device__ inline void squares_of_tile(
    const Args &a, const Tensor &t, double gamma, const Span &s, u32 thread, Tile &tile
) {
    const u32 lane = thread % LANES, warp = thread / LANES;
    double columns[TILE_COLUMNS / LANES] = {}, g2 = 0;
    for (u32 row = warp; row < s.rows; row += WARPS) {
        const u64 first = s.base + row * s.stride + lane;
        Given<P> v[TILE_COLUMNS / LANES] = {};
#pragma unroll
        for (u32 k = 0; k < TILE_COLUMNS / LANES; k++) {
            if (lane + k * LANES < s.columns) v[k] = given<P>(t, first + k * LANES);
        }
        double sum = 0;
#pragma unroll
        for (u32 k = 0; k < TILE_COLUMNS / LANES; k++) {
            const Pair pair = squared(a, t, gamma, v[k]);  // zeros beyond the last column
            sum += pair.q;
            columns[k] += pair.q;
            g2 += pair.g2;
        }
        tile.rows[row][lane] = sum;
    }
#pragma unroll
    for (u32 k = 0; k < TILE_COLUMNS / LANES; k++) tile.columns[warp][lane + k * LANES] = columns[k];
    tile.g2[0][thread] = g2;
}

// A thread for each row and then for each column, of which a small matrix has few.
template <class P>
__device__ inline void squares_of_matrices(
    const Args &a, const Tensor &t, double gamma, const Span &s, u32 thread, Tile &tile
) {
    const u32 n = (u32)t.n, width = (u32)t.width, matrices = (u32)((s.end - s.base) / (t.n * t.width));
    double g2 = 0;
    for (u32 row = thread; row < matrices * n; row += THREADS) {
        double sum = 0;
        for (u32 j = 0; j < width; j++) {
            const Pair pair = squared(a, t, gamma, given<P>(t, s.base + row * width + j));
            sum += pair.q;
            g2 += pair.g2;
        }
        a.scratch[t.row_parts + s.row + row] = sum;
    }
    for (u32 column = thread; column < matrices * width; column += THREADS) {
        const u64 top = s.base + (u64)(column / width) * n * width + column % width;
        double sum = 0;
        for (u32 i = 0; i < n; i++) sum += squared(a, t, gamma, given<P>(t, top + i * width)).q;
        a.scratch[t.column_parts + s.column + column] = sum;
    }
    tile.g2[0][thread] = g2;
}

template <class P>
__device__ void squares(const Args &a, const Tensor &t, const Span &s, u32 thread, Tile &tile) {
    const double gamma = a.rules[t.rule].gamma;
    if (t.shape == TILES) {
        squares_of_tile<P>(a, t, gamma, s, thread, tile);
    } else {
        squares_of_matrices<P>(a, t, gamma, s, thread, tile);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) fadam_squares(const Args a) {
    __shared__ Tile tile;
    const u64 entry = a.chunks[blockIdx.x], chunk = (u32)entry;
    const Tensor t = a.tensors[entry >> 32];
    if (a.status->halted || t.shape == FULL) return;
    const Span s = span_of(t, chunk);
    EACH_THREAD(thread) {
        BY_TYPE(t.dtype, false, squares, a, t, s, thread, tile);
    }
    if (t.shape == TILES) {
        EACH_THREAD(thread) {
            if (thread < s.rows) {
                double sum = 0;
                for (u32 lane = 0; lane < LANES; lane++) sum += tile.rows[thread][lane];
                a.scratch[t.row_parts + (s.row + thread) * t.across + chunk % t.across] = sum;
            }
            if (thread < s.columns) {
                double sum = 0;
                for (u32 warp = 0; warp < WARPS; warp++) sum += tile.columns[warp][thread];
                const u64 part = chunk / t.across, first = chunk % t.across * TILE_COLUMNS;
                a.scratch[t.column_parts + part * t.width + first + thread] = sum;
            }
        }
    }
    reduce<1>(tile.g2);
    EACH_THREAD(thread) {
        if (thread == 0) a.partial[(u64)blockIdx.x * 4] = tile.g2[0][0];
    }
}

// ---- lines, factors: R and C

// The row (over all matrices) of a thread in a line block, or NONE.
__device__ inline u64 row_of(const Tensor &t, u64 block, u32 thread) {
    if (t.n <= SHORT) {
        const u64 rows = THREADS / t.n * t.n, row = block * rows + thread;
        return thread < rows && row < t.outer * t.n ? row : NONE;
    }
    const u64 blocks = (t.n + THREADS - 1) / THREADS, row = block % blocks * THREADS + thread;
    return row < t.n ? block / blocks * t.n + row : NONE;
}

__device__ inline u64 column_of(const Tensor &t, u64 block, u32 lane) {
    const u64 column = (block - t.row_lines) * LINE_COLUMNS + lane;
    return column < t.outer * t.width ? column : NONE;
}

// The new R or C from the sum of its squares.
__device__ inline double averaged(const Args &a, const Tensor &t, const Plan &p, bool is_row, u64 at, double sum) {
    const double offset = a.rules[t.rule].offset * (double)(is_row ? t.width : t.n);
    const double old = widen(fetch<Wide>(is_row ? t.r : t.c, at, state_dtype(t)));
    const double averaged = p.beta * old + p.fresh * (sum + offset);
    if (!can_store(state_dtype(t), averaged)) report(a, t, is_row ? IN_R : IN_C);
    return averaged;
}

extern "C" __global__ void __launch_bounds__(THREADS) fadam_lines(const Args a) {
    __shared__ double sums[1][THREADS];
    if (a.status->halted) return;
    const u64 entry = a.lines[blockIdx.x], block = (u32)entry;
    const Tensor t = a.tensors[entry >> 32];
    const Plan p = a.plans[entry >> 32];
    if (block < t.row_lines) {
        EACH_THREAD(thread) {
            const u64 row = row_of(t, block, thread);
            double sum = 0;
            if (row != NONE) {
                for (u64 k = 0; k < t.across; k++) sum += a.scratch[t.row_parts + row * t.across + k];
                sum = averaged(a, t, p, true, row, sum);
                a.scratch[t.rows + row] = sum;
            }
            sums[0][thread] = sum;
        }
        reduce<1>(sums);
        EACH_THREAD(thread) {
            if (thread == 0) a.scratch[t.totals + block] = sums[0][0];
        }
        return;
    }
    EACH_THREAD(thread) {
        const u64 column = column_of(t, block, thread % LANES);
        double sum = 0;
        if (column != NONE) {
            const u64 parts = t.column_parts + column / t.width * t.down * t.width + column % t.width;
            for (u64 k = thread / LANES; k < t.down; k += WARPS) sum += a.scratch[parts + k * t.width];
        }
        sums[0][thread] = sum;
    }
    EACH_THREAD(thread) {
        const u64 column = thread < LANES ? column_of(t, block, thread) : NONE;
        if (column != NONE) {
            double sum = 0;
            for (u32 warp = 0; warp < WARPS; warp++) sum += sums[0][warp * LANES + thread];
            a.scratch[t.columns + column] = averaged(a, t, p, false, column, sum);
        }
    }
}

// ΣR of the matrix of a row.
__device__ inline double total_of(const Args &a, const Tensor &t, u64 row) {
    const u64 matrix = row / t.n, blocks = (t.n + THREADS - 1) / THREADS;
    const double *parts = a.scratch + (t.n <= SHORT ? t.rows + matrix * t.n : t.totals + matrix * blocks);
    double total = 0;
    for (u64 k = 0; k < (t.n <= SHORT ? t.n : blocks); k++) total += parts[k];
    return total;
}

extern "C" __global__ void __launch_bounds__(THREADS) fadam_factors(const Args a) {
    if (a.status->halted) return;
    const u64 entry = a.lines[blockIdx.x], block = (u32)entry;
    const Tensor t = a.tensors[entry >> 32];
    const double rho = a.rules[t.rule].rho;
    EACH_THREAD(thread) {
        const bool of_rows = block < t.row_lines;
        const u64 row = of_rows ? row_of(t, block, thread) : NONE;
        const u64 column = !of_rows && thread < LANES ? column_of(t, block, thread) : NONE;
        if (row != NONE) {
            const double share = a.scratch[t.rows + row] * inverse(total_of(a, t, row));
            a.scratch[t.row_factors + row] = power(share, rho);
        }
        if (column != NONE) a.scratch[t.column_factors + column] = power(a.scratch[t.columns + column], rho);
    }
}

// ---- finish_gradient, finish_measure: a block for each tensor

// Sums over the chunks of a tensor, into the first of each row.
__device__ inline void sum_chunks(const Args &a, const Tensor &t, double (*sums)[THREADS]) {
    EACH_THREAD(thread) {
        double four[4] = {};
        for (u64 chunk = thread; chunk < t.chunks; chunk += THREADS) {
            for (u32 k = 0; k < 4; k++) four[k] += a.partial[(t.first_chunk + chunk) * 4 + k];
        }
        for (u32 k = 0; k < 4; k++) sums[k][thread] = four[k];
    }
    reduce<4>(sums);
}

__device__ inline double rms(double sum, u64 count) { return sqrt(sum / (double)(count ? count : 1)); }

__device__ inline void finish_gradient(const Args &a, const Tensor &t, Plan &p, double g2) {
    const Numbers &n = a.rules[t.rule];
    if (!is_finite(g2)) report(a, t, g2 == g2 ? IN_THETA : GRADIENT);
    p.rms_g = rms(g2, t.count);
    if (n.kind != ADAM && n.eps2 == n.eps2) {
        const double bound = n.eps2 * p.rms_g;
        if (bound < n.eps) {
            p.eps_hat = bound;
            p.floor = pow(bound, 2 * n.rho);
            p.again = 1;
        }
    }
    // Above the second bound, one g² may be no f32.
    const bool careful = needs_care(t, n, p.eps_hat, p.floor) || (t.dtype != F64 && g2 > 1e36);
    if (careful && !p.careful) p.again = 1;
    p.careful = careful;
}

extern "C" __global__ void __launch_bounds__(THREADS) fadam_finish_gradient(const Args a) {
    __shared__ double sums[4][THREADS];
    if (a.status->halted) return;
    const Tensor t = a.tensors[blockIdx.x];
    sum_chunks(a, t, sums);
    EACH_THREAD(thread) {
        if (thread == 0) finish_gradient(a, t, a.plans[blockIdx.x], sums[0][0]);
    }
}

// 1 / max(1, RMS/c); NaN is off.
__device__ inline double clip_factor(double rms, double clip) { return clip == clip ? 1 / larger(1, rms / clip) : 1; }

extern "C" __global__ void __launch_bounds__(THREADS) fadam_finish_measure(const Args a) {
    __shared__ double sums[4][THREADS];
    if (a.status->halted) return;
    const Tensor t = a.tensors[blockIdx.x];
    sum_chunks(a, t, sums);
    EACH_THREAD(thread) {
        if (thread == 0) {
            const double x2 = sums[1][0], w2 = sums[2][0], u2 = sums[3][0], clip = a.rules[t.rule].clip;
            Plan &p = a.plans[blockIdx.x];
            if (!is_finite(x2)) {
                report(a, t, x2 == x2 ? IN_THETA : IN_F);  // NaN where d is not finite
            } else if (!is_finite(u2)) {
                report(a, t, GRADIENT);  // the auxiliary one
            }
            if (!is_finite(w2)) report(a, t, IN_THETA);
            p.rms_x = rms(x2, t.count), p.x = clip_factor(p.rms_x, clip);
            p.rms_w = rms(w2, t.count), p.w = clip_factor(p.rms_w, clip);
            p.rms_u = rms(u2, t.count), p.u = clip_factor(p.rms_u, clip);
        }
    }
}

// ---- apply, close

// The new f, m and θ of a chunk: looked at the first time, written the second.
template <class P> __device__ void apply(const Args &a, const Tensor &t, const Plan &p, u64 chunk, u32 thread) {
    typedef typename Of<P>::Compute C;
    typedef typename Of<P>::State S;
    const Rule<C> r(t, a.rules[t.rule], p);
    const u64 state = state_dtype(t);
    walk<false, P>(a, t, r, chunk, thread, [&](u64 at, const Element<C> &v) {
        const Direction<C> y = direction(r, v);
        const C theta = new_theta(r, v, y);
        if (!a.second) {
            if (!r.factored && !can_store(state, y.f)) report(a, t, IN_F);
            if (!can_store(state, y.m)) report(a, t, IN_M);
            if (!can_store(t.dtype, theta)) report(a, t, IN_THETA);
            return;
        }
        if (!r.factored) put<S>(t.f, at, state, y.f);
        put<S>(t.m, at, state, y.m);
        put<P>(t.theta, at, t.dtype, theta);
    });
}

// The chunks, and the second time after them the line blocks. The first time only what the sums, being finite, do not
// bound far below what it is stored in: f16, and what is computed in f64 to be stored in f32.
extern "C" __global__ void __launch_bounds__(THREADS) fadam_apply(const Args a) {
    const bool is_line = blockIdx.x >= a.chunk_count;
    const u64 entry = is_line ? a.lines[blockIdx.x - a.chunk_count] : a.chunks[blockIdx.x];
    const Tensor t = a.tensors[entry >> 32];
    const Plan p = a.plans[entry >> 32];
    const bool wanted = a.second ? a.status->bad == NONE : p.careful || t.dtype == F16;
    if (a.status->halted || !wanted) return;
    EACH_THREAD(thread) {
        if (!is_line) {
            BY_TYPE(t.dtype, p.careful, apply, a, t, p, (u32)entry, thread);
        } else if ((u32)entry < t.row_lines) {
            const u64 row = row_of(t, (u32)entry, thread);
            if (row != NONE) put<Wide>(t.r, row, state_dtype(t), a.scratch[t.rows + row]);
        } else if (thread < LANES) {
            const u64 column = column_of(t, (u32)entry, thread);
            if (column != NONE) put<Wide>(t.c, column, state_dtype(t), a.scratch[t.columns + column]);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) fadam_close(const Args a) {
    Status &status = *a.status;
    if (!status.halted && status.bad == NONE) return;
    EACH_THREAD(thread) {
        for (u64 index = thread; index < a.tensor_count; index += THREADS) *a.tensors[index].missed += 1;
    }
    EACH_THREAD(thread) {
        if (thread == 0) {
            if (status.first == NONE) status.first = status.bad;
            status.cancelled += 1;
            status.halted = status.sticky;
            status.bad = NONE;
        }
    }
}
