#pragma once
#include <peft/linalg/reflectors.hpp>
#include <peft/linalg/rotations.hpp>
#include <peft/simd/loop.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <string>

PEFT_ISA_DETAIL_BEGIN

/// a -= x z^T + w v^T and sums = a^T u in one pass over a; z, v and sums have a.cols() elements, x, w and u one a row.
template <class T> struct UpdateAndProject {
    struct Task {
        MatrixView<T> a;
        const T *x, *z, *w, *v, *u;
        T* sums;
        T* spare;   ///< a.cols() zeros: the rows that are missing from the last four
    };
    template <class L> PEFT_INLINE static void run(const Task& task) noexcept {
        constexpr std::size_t step = 4;   // rows for each time z, v and the sums are read
        constexpr std::size_t n = L::template lanes<T>;
        using V = Vec<T, n>;
        for (std::size_t first = 0; first < task.a.rows(); first += step) {
            T* row[step];
            V x[step], w[step], u[step];
            PEFT_UNROLL
            for (std::size_t r = 0; r < step; ++r) {
                const bool here = first + r < task.a.rows();
                row[r] = here ? task.a.row(first + r) : task.spare;
                x[r] = V::splat(here ? task.x[first + r] : T(0));
                w[r] = V::splat(here ? task.w[first + r] : T(0));
                u[r] = V::splat(here ? task.u[first + r] : T(0));
            }
            const auto pass = [&](auto at) PEFT_INLINE_LAMBDA {
                const auto z = at.load(task.z), v = at.load(task.v);
                auto sum = at.load(task.sums);
                PEFT_UNROLL
                for (std::size_t r = 0; r < step; ++r) {
                    auto value = at.load(row[r]);
                    value.raw -= x[r].raw * z.raw;
                    value.raw -= w[r].raw * v.raw;
                    at.store(row[r], value);
                    sum.add_product(value, u[r]);
                }
                at.store(task.sums, sum);
            };
            std::size_t i = 0;
            for (; i + n <= task.a.cols(); i += n) pass(Full<n>{i});   // four rows are unrolled enough
            if (i < task.a.cols()) pass(Rest<n>{i, task.a.cols() - i});
        }
    }
};

/// The same, shared out to threads in a way that depends on the shape only.
template <class T> void update_and_project(const typename UpdateAndProject<T>::Task& task) {
    const std::size_t rows = task.a.rows(), cols = task.a.cols();
    const bool parallel = rows * cols >= parallel_elements;
    const std::size_t part = parallel ? (rows + 31) / 32 * 4 : rows;   // eight parts, each of whole groups of four rows
    const std::size_t parts = (rows + part - 1) / part;
    ArenaScope scope;
    const auto sums = scope.matrix<T>(parts, cols);
    const auto spare = scope.matrix<T>(parts, cols);
    std::fill_n(sums.data(), sums.size(), T(0));
    std::fill_n(spare.data(), spare.size(), T(0));
    parallel_for(parts, parallel, [&](std::size_t index) {
        const std::size_t first = index * part;
        typename UpdateAndProject<T>::Task local = task;
        local.a = task.a.rows(first, std::min(part, rows - first));
        local.x += first;
        local.w += first;
        local.u += first;
        local.sums = sums.row(index);
        local.spare = spare.row(index);
        run_kernel<UpdateAndProject<T>, const typename UpdateAndProject<T>::Task&>(local);
    });
    std::copy_n(sums.data(), cols, task.sums);
    for (std::size_t i = 1; i < parts; ++i) {
        for (std::size_t j = 0; j < cols; ++j) task.sums[j] += sums(i, j);
    }
}

/// Reduces a (m x n, m >= n, used up) to an upper bidiagonal matrix with diagonal d (n) and e (n - 1) above it:
/// a = H_0 ... H_{n-1} B G_{n-2} ... G_0. Rows of `left` (n x m): the reflectors of H; rows of `right` (n x n): those of G, the
/// leading one of row i at i + 1, its last row unused. Both are zero on entry.
/// The update of a step is delayed to the next one, so that each step passes over the matrix twice and not four times.
/// Source: Golub and Van Loan, Matrix Computations, 4th ed., algorithm 5.4.2.
template <class T>
void bidiagonalize(const MatrixView<T>& a, std::span<double> d, std::span<double> e, const MatrixView<T>& left, std::span<T> left_tau,
                   const MatrixView<T>& right, std::span<T> right_tau) {
    const std::size_t m = a.rows(), n = a.cols();
    ArenaScope scope;
    const auto z = scope.vector<T>(n), w = scope.vector<T>(m), none = scope.vector<T>(std::max(m, n)), sums = scope.vector<T>(n);
    std::fill(none.begin(), none.end(), T(0));
    std::fill(w.begin(), w.end(), T(0));
    std::fill(z.begin(), z.end(), T(0));
    for (std::size_t i = 0; i < n; ++i) {
        const T* x = i == 0 ? none.data() : left.row(i - 1);
        const T* v = i == 0 ? none.data() : right.row(i - 1);
        T* const u = left.row(i);
        for (std::size_t r = i; r < m; ++r) u[r] = a(r, i) - x[r] * z[i] - w[r] * v[i];
        const Reflector h = make_reflector(std::span<T>(u + i, m - i));
        d[i] = h.beta;
        left_tau[i] = static_cast<T>(h.tau);
        if (i + 1 == n) break;

        const std::size_t from = i + 1, cols = n - from;
        update_and_project<T>({a.block(i, from, m - i, cols), x + i, z.data() + from, w.data() + i, v + from, u + i, sums.data() + from, nullptr});
        for (std::size_t j = from; j < n; ++j) {
            z[j] = left_tau[i] * sums[j];
            right(i, j) = a(i, j) - z[j];
        }
        const Reflector g = make_reflector(right.row_span(i).subspan(from));
        e[i] = g.beta;
        right_tau[i] = static_cast<T>(g.tau);

        const MatrixView<const T> next(right.row(i) + from, 1, cols);
        const auto rest = a.block(from, from, m - from, cols);
        multiply_nt<T>(next, rest, MatrixView<T>(w.data() + from, 1, m - from), {.scale = right_tau[i]});
        T back = 0;
        for (std::size_t j = from; j < n; ++j) back += z[j] * right(i, j);
        back *= right_tau[i];
        for (std::size_t r = from; r < m; ++r) w[r] -= back * u[r];
    }
}

/// c f + s g = r, c g - s f = 0.
struct Rotation {
    double c, s, r;
};
PEFT_INLINE Rotation make_rotation(double f, double g) noexcept {
    const double square = f * f + g * g;
    // Both so small that their squares underflow: g is nothing beside a matrix of magnitude 1.
    if (g == 0 || square < 0x1p-900) return {1, 0, f};
    const double r = std::sqrt(square);
    return {f / r, g / r, r};
}

/// The smaller singular value of ((f, g), (0, h)), to a few digits where it is far the smaller one: a shift only steers.
PEFT_INLINE double smaller_singular_value(double f, double g, double h) noexcept {
    const double sum = std::hypot(f + h, g), difference = std::hypot(f - h, g);   // s_max +- s_min
    const double largest = (sum + difference) / 2;
    return largest == 0 ? 0 : std::fabs(f) * (std::fabs(h) / largest);
}

/// One step of the implicit QR iteration on the block lo .. hi of the bidiagonal matrix, from top to bottom.
/// Source: Demmel and Kahan 1990, "Accurate singular values of bidiagonal matrices", sections 3 and 5 (zero shift).
template <class T> void qr_sweep(std::span<double> d, std::span<double> e, std::size_t lo, std::size_t hi, double shift, RotationQueue<T>& queue) {
    queue.begin(lo, hi - lo);
    if (shift == 0) {
        Rotation left{1, 0, 0}, right{1, 0, 0};
        for (std::size_t i = lo; i < hi; ++i) {
            right = make_rotation(d[i] * right.c, e[i]);
            if (i > lo) e[i - 1] = left.s * right.r;
            left = make_rotation(left.c * right.r, d[i + 1] * right.s);
            d[i] = left.r;
            queue.add(left.c, left.s, right.c, right.s);
        }
        const double last = d[hi] * right.c;
        d[hi] = last * left.c;
        e[hi - 1] = last * left.s;
        return;
    }
    double f = (std::fabs(d[lo]) - shift) * (std::copysign(1.0, d[lo]) + shift / d[lo]), g = e[lo];
    for (std::size_t i = lo; i < hi; ++i) {
        const Rotation right = make_rotation(f, g);
        if (i > lo) e[i - 1] = right.r;
        f = right.c * d[i] + right.s * e[i];
        e[i] = right.c * e[i] - right.s * d[i];
        g = right.s * d[i + 1];
        d[i + 1] *= right.c;
        const Rotation left = make_rotation(f, g);
        d[i] = left.r;
        f = left.c * e[i] + left.s * d[i + 1];
        d[i + 1] = left.c * d[i + 1] - left.s * e[i];
        if (i + 1 < hi) {
            g = left.s * e[i + 1];
            e[i + 1] *= left.c;
        }
        queue.add(left.c, left.s, right.c, right.s);
    }
    e[hi - 1] = f;
}

/// Makes the bidiagonal matrix diagonal, up to entries of e below a quarter of the rounding of T, or eight times that of double, beside its
/// largest entry. What stays in d are the singular values with signs, in no order. The rotations go to the queue. Throws
/// NumericError if it does not converge.
template <class T> void diagonalize(std::span<double> d, std::span<double> e, RotationQueue<T>& queue) {
    double largest = 0;
    for (const double value : d) largest = std::max(largest, std::fabs(value));
    for (const double value : e) largest = std::max(largest, std::fabs(value));
    // A sweep itself rounds in double: below a few units of that, entries beside equal singular values come back for ever.
    const double negligible = largest * std::max(static_cast<double>(std::numeric_limits<T>::epsilon()) / 4, 8 * std::numeric_limits<double>::epsilon());
    // Two to three sweeps find a singular value; LAPACK's dbdsqr gives up after 6 n^2 rotations of n, i.e. 6 n sweeps.
    std::size_t sweeps = 30 * d.size() + 30;
    std::size_t hi = d.size() - 1;
    while (hi > 0) {
        std::size_t lo = hi;
        while (lo > 0 && std::fabs(e[lo - 1]) > negligible) --lo;
        if (lo == hi) {
            --hi;
            continue;
        }
        if (sweeps-- == 0) throw NumericError("the QR iteration does not converge", {.subject = "svd", .found = "order " + std::to_string(d.size())});
        double shift = smaller_singular_value(d[hi - 1], e[hi - 1], d[hi]);
        const double ratio = d[lo] == 0 ? 0 : shift / d[lo];
        if (ratio * ratio < std::numeric_limits<double>::epsilon()) shift = 0;   // as dbdsqr: it would be lost in rounding
        qr_sweep<T>(d, e, lo, hi, shift, queue);
    }
    queue.flush();
}

PEFT_ISA_DETAIL_END
