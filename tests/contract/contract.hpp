#pragma once
#include "contract/files.hpp"
#include "support/allocation_counter.hpp"
#include "support/catch.hpp"

#include <peft/core/parameter.hpp>
#include <peft/core/random.hpp>
#include <peft/kernels/elementwise.hpp>
#include <peft/layers/adapted.hpp>
#include <peft/linear/dense.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

// What every method promises, checked by one line in its test:
//     peft_test::contract<peft::LoRA, TestType>({.rank = 3, .alpha = 7}, lora_formula, lora_count);
// The formula is the method's paper in plain loops over long double; the count is its number of trained numbers.

namespace peft_test {

using peft::LayerShape;
using peft::Matrix;
using peft::MatrixView;
using Real = long double;

/// Numbers that float represents exactly, in [-scale, scale): the same for every T.
template <class T> Matrix<T> random_matrix(std::size_t rows, std::size_t cols, std::uint64_t seed, double scale = 1) {
    const peft::CounterRandom random({.seed = seed, .stream = 0, .purpose = peft::Purpose::data, .step = 0});
    Matrix<T> result(rows, cols);
    for (std::size_t i = 0; i < result.size(); ++i) {
        result.data()[i] = static_cast<T>(static_cast<float>(scale * (2 * random.uniform(i) - 1)));
    }
    return result;
}

template <class T> bool same_bytes(MatrixView<const T> a, MatrixView<const T> b) {
    if (a.rows() != b.rows() || a.cols() != b.cols()) return false;
    for (std::size_t i = 0; i < a.rows(); ++i) {
        if (a.cols() != 0 && std::memcmp(a.row(i), b.row(i), a.cols() * sizeof(T)) != 0) return false;
    }
    return true;
}
template <class T> bool same_bytes(const Matrix<T>& a, const Matrix<T>& b) { return same_bytes<T>(a.view(), b.view()); }
template <class T> bool same_bytes(std::span<const T> a, std::span<const T> b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}

/// gamma_n = n u / (1 - n u): the relative error of n roundings in T (Higham, Accuracy and Stability, lemma 3.1).
template <class T> Real gamma(std::size_t n) {
    const Real nu = static_cast<Real>(n) * static_cast<Real>(std::numeric_limits<T>::epsilon()) / 2;
    return nu / (1 - nu);
}

/// The tensors of a method by name.
class Tensors {
public:
    template <class Method> explicit Tensors(const Method& method) {
        Method::each_tensor(method, [this](std::string_view name, const auto& tensor, peft::Role, peft::TensorShape = {}) {
            Matrix<Real> values(tensor.rows(), tensor.cols());
            for (std::size_t i = 0; i < values.size(); ++i) values.data()[i] = static_cast<Real>(tensor.flat()[i]);
            entries_.emplace_back(std::string(name), std::move(values));
        });
    }
    bool has(std::string_view name) const { return find(name) != nullptr; }
    const Matrix<Real>& operator[](std::string_view name) const {
        const Matrix<Real>* found = find(name);
        if (found == nullptr) FAIL("the method has no tensor " << std::string(name));
        return *found;
    }
    const std::vector<std::pair<std::string, Matrix<Real>>>& entries() const { return entries_; }

private:
    const Matrix<Real>* find(std::string_view name) const {
        for (const auto& [key, value] : entries_) {
            if (key == name) return &value;
        }
        return nullptr;
    }
    std::vector<std::pair<std::string, Matrix<Real>>> entries_;
};

/// A layer as plain numbers, each with the sum of the magnitudes of the terms it is made of: what rounding is measured by.
struct Dense {
    Matrix<Real> w, b, w_size, b_size;   ///< (out x in), (1 x out)
    std::size_t roundings = 0;           ///< of a number of w, beyond those of the product with x

    template <class Base> explicit Dense(const Base& base)
        : w(base.shape().out, base.shape().in), b(1, w.rows()), w_size(w.rows(), w.cols()), b_size(1, w.rows()) {
        for (std::size_t o = 0; o < w.rows(); ++o) {
            for (std::size_t i = 0; i < w.cols(); ++i) add(o, i, static_cast<Real>(peft::widen(base.weight()(o, i))));
            if (!base.bias().empty()) add_bias(o, static_cast<Real>(base.bias()[o]));
        }
    }
    std::size_t in() const { return w.cols(); }
    std::size_t out() const { return w.rows(); }

    void add(std::size_t o, std::size_t i, Real term) {
        w(o, i) += term;
        w_size(o, i) += std::fabs(term);
    }
    void add_bias(std::size_t o, Real term) {
        b(0, o) += term;
        b_size(0, o) += std::fabs(term);
    }
    /// w += s * B * A
    void add_product(Real s, const Matrix<Real>& second, const Matrix<Real>& first) {
        for (std::size_t o = 0; o < out(); ++o) {
            for (std::size_t k = 0; k < first.rows(); ++k) {
                for (std::size_t i = 0; i < in(); ++i) add(o, i, s * second(o, k) * first(k, i));
            }
        }
        roundings += first.rows() + 2;
    }
    /// Row o of w, and b_o, times c. `size` replaces |c| where the library gets there by subtracting.
    void scale_row(std::size_t o, Real c, Real size = -1) {
        for (std::size_t i = 0; i < in(); ++i) {
            w(o, i) *= c;
            w_size(o, i) *= size < 0 ? std::fabs(c) : size;
        }
    }
    void scale_column(std::size_t i, Real c) {
        for (std::size_t o = 0; o < out(); ++o) {
            w(o, i) *= c;
            w_size(o, i) *= std::fabs(c);
        }
    }
    void scale_bias(std::size_t o, Real c) {
        b(0, o) *= c;
        b_size(0, o) *= std::fabs(c);
    }
};

/// max |y - (x W^T + b)| / bound: above 1 the difference is more than rounding in T explains.
template <class T> Real worst_ratio(MatrixView<const T> y, const Dense& dense, MatrixView<const T> x) {
    const Real g = gamma<T>(dense.in() + dense.roundings + 3);
    Real worst = 0;
    for (std::size_t t = 0; t < x.rows(); ++t) {
        for (std::size_t o = 0; o < dense.out(); ++o) {
            Real value = dense.b(0, o);
            Real size = dense.b_size(0, o);
            for (std::size_t i = 0; i < dense.in(); ++i) {
                value += static_cast<Real>(x(t, i)) * dense.w(o, i);
                size += std::fabs(static_cast<Real>(x(t, i))) * dense.w_size(o, i);
            }
            const Real error = std::fabs(static_cast<Real>(y(t, o)) - value);
            if (!(error <= g * size)) worst = std::max(worst, size == 0 ? std::numeric_limits<Real>::infinity() : error / (g * size));
            else if (size != 0) worst = std::max(worst, error / (g * size));
        }
    }
    return worst;
}

/// max |a - b| relative to the rounding bound of both.
template <class T> Real worst_difference(MatrixView<const T> a, MatrixView<const T> b, const Dense& dense, MatrixView<const T> x) {
    const Real g = 2 * gamma<T>(dense.in() + dense.roundings + 3);
    Real worst = 0;
    for (std::size_t t = 0; t < x.rows(); ++t) {
        for (std::size_t o = 0; o < dense.out(); ++o) {
            Real size = dense.b_size(0, o);
            for (std::size_t i = 0; i < dense.in(); ++i) size += std::fabs(static_cast<Real>(x(t, i))) * dense.w_size(o, i);
            const Real error = std::fabs(static_cast<Real>(a(t, o)) - static_cast<Real>(b(t, o)));
            if (error != 0) worst = std::max(worst, error / (g * size));
        }
    }
    return worst;
}

/// A random change of every trained number, and the derived values made anew.
template <class Layer> void disturb(Layer& layer, std::uint64_t seed, double scale = 0.5) {
    using T = typename Layer::value_type;
    for (const auto& parameter : layer.parameters()) {
        const Matrix<T> change = random_matrix<T>(1, parameter.size(), ++seed, scale);
        // stays representable as a float, so that a layer in double can hold the same number
        for (std::size_t i = 0; i < parameter.size(); ++i) {
            parameter.value()[i] = static_cast<T>(static_cast<float>(parameter.value()[i]) + static_cast<float>(change.data()[i]));
        }
        parameter.touch();
    }
    layer.prepare();
}

/// sum_ij g_ij y_ij
template <class T> double weighted_sum(const Matrix<T>& g, const Matrix<T>& y) {
    Real sum = 0;
    for (std::size_t i = 0; i < g.size(); ++i) sum += static_cast<Real>(g.data()[i]) * static_cast<Real>(y.data()[i]);
    return static_cast<double>(sum);
}

/// Compares the gradients of all trained numbers and of x with central differences of sum(g * y). In double only.
/// Step and tolerances are those of PyTorch's gradcheck. Large tensors are sampled: about 200 numbers each.
template <class Layer> void check_gradients(Layer& layer, const Matrix<double>& x, std::uint64_t seed) {
    constexpr double h = 1e-6;
    const auto close = [](double analytic, double numeric) { return std::fabs(analytic - numeric) <= 1e-5 + 1e-3 * std::fabs(numeric); };
    const std::size_t n = x.rows();
    const Matrix<double> g = random_matrix<double>(n, layer.shape().out, seed);
    Matrix<double> input = x;
    Matrix<double> y(n, layer.shape().out);
    Matrix<double> dx(n, layer.shape().in);
    auto tape = layer.make_tape();
    const auto loss = [&] {
        tape.set_step(40);   // one mask for all evaluations
        layer.forward(input, y, tape);
        return weighted_sum(g, y);
    };
    const auto parameters = layer.parameters();
    for (const auto& parameter : parameters) std::fill(parameter.grad().begin(), parameter.grad().end(), 0.0);
    loss();
    layer.backward(g, dx, tape);
    for (const auto& parameter : parameters) {
        const std::size_t stride = std::max<std::size_t>(1, parameter.size() / 200);
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < parameter.size(); i += stride) {
            double& value = parameter.value()[i];
            const double old = value;
            value = old + h;
            parameter.touch();
            const double above = loss();
            value = old - h;
            parameter.touch();
            const double below = loss();
            value = old;
            parameter.touch();
            const double numeric = (above - below) / (2 * h);
            if (!close(parameter.grad()[i], numeric) && ++wrong == 1) {
                UNSCOPED_INFO(parameter.name << "[" << i << "]: gradient " << parameter.grad()[i] << ", difference " << numeric);
            }
        }
        INFO("numbers with a wrong gradient in " << parameter.name);
        CHECK(wrong == 0);
    }
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < input.size(); i += std::max<std::size_t>(1, input.size() / 200)) {
        const double old = input.data()[i];
        input.data()[i] = old + h;
        const double above = loss();
        input.data()[i] = old - h;
        const double below = loss();
        input.data()[i] = old;
        if (!close(dx.data()[i], (above - below) / (2 * h)) && ++wrong == 1) {
            UNSCOPED_INFO("dx[" << i << "]: " << dx.data()[i] << ", difference " << (above - below) / (2 * h));
        }
    }
    INFO("numbers with a wrong gradient in x");
    CHECK(wrong == 0);
    layer.prepare();
}

/// max_i |a_i - b_i| <= bound * largest, the largest number in the gradient of the whole layer: in norm, since a part of it
/// may be zero by cancellation (DoRA's with a single input). A sum of `terms` random terms is about sqrt(terms) times
/// smaller than the sum of their magnitudes, which is what gamma bounds.
inline bool close_gradients(std::span<const float> a, std::span<const double> b, std::size_t terms, double largest) {
    double error = 0;
    for (std::size_t i = 0; i < a.size(); ++i) error = std::max(error, std::fabs(static_cast<double>(a[i]) - b[i]));
    return error <= static_cast<double>(gamma<float>(terms)) * std::sqrt(static_cast<double>(terms)) * largest;
}
inline double largest_magnitude(std::span<const double> values, double at_least = 0) {
    for (const double value : values) at_least = std::max(at_least, std::fabs(value));
    return at_least;
}

/// How much larger than a row of the weight the terms are that it is made of, at worst: what cancels there cancels in the
/// gradients too.
inline double condition(const Dense& dense) {
    Real worst = 1;
    for (std::size_t o = 0; o < dense.out(); ++o) {
        Real value = 0;
        Real size = 0;
        for (std::size_t i = 0; i < dense.in(); ++i) {
            value = std::max(value, std::fabs(dense.w(o, i)));
            size = std::max(size, dense.w_size(o, i));
        }
        if (value != 0) worst = std::max(worst, size / value);
    }
    return static_cast<double>(worst);
}

/// What a method does not promise.
struct Exceptions {
    bool starts_random = true;      ///< a fresh adapter holds random numbers: layers of other weights differ in them
    bool exact_start = true;        ///< the output of a fresh adapter has the bits of the base's
};

/// One method over one dense base.
template <class Method> struct Subject {
    using T = typename Method::value_type;
    peft::DenseLinear<T> base;
    peft::Adapted<peft::DenseLinear<T>&, Method> layer;

    Subject(LayerShape shape, const typename Method::Options& options, bool with_bias, std::uint64_t seed, std::optional<std::uint64_t> stream = {})
        : base(random_matrix<T>(shape.out, shape.in, seed), with_bias ? random_matrix<T>(1, shape.out, seed + 1) : Matrix<T>()),
          layer(peft::adapt(base, Method(shape, options), stream)) {}
    Subject(const Subject&) = delete;
    Subject& operator=(const Subject&) = delete;

    template <class Formula> Dense dense(const Formula& formula) const {
        Dense result(base);
        formula(Tensors(layer.method()), layer.method().options(), result);
        return result;
    }
    /// Everything of the base that a merge may change.
    std::vector<unsigned char> bytes() const {
        std::vector<unsigned char> all(base.stored().size() * sizeof(T) + base.bias().size_bytes() + 1);
        all[0] = base.bias().empty() ? 0 : 1;
        std::memcpy(all.data() + 1, base.stored().data(), base.stored().size() * sizeof(T));
        if (!base.bias().empty()) std::memcpy(all.data() + 1 + base.stored().size() * sizeof(T), base.bias().data(), base.bias().size_bytes());
        return all;
    }
};

/// M in one scalar type, Double the same method in double.
template <class M, class Double> class Contract {
    using T = typename M::value_type;
    using Options = typename M::Options;
    static_assert(std::is_trivially_copyable_v<Options>);

public:
    explicit Contract(const Options& options, Exceptions exceptions) : options_(options), exceptions_(exceptions) {}

    template <class Formula, class Count> void run(const Formula& formula, const Count& count) {
        constexpr LayerShape shapes[] = {{1, 1}, {7, 1}, {1, 7}, {17, 33}, {48, 64}};
        for (const LayerShape shape : shapes) {
            for (const std::size_t rank : ranks(shape)) {
                if constexpr (requires(Options& o) { o.rank; }) options_.rank = rank;
                const bool with_bias = shape.in != 7 && shape.in != 48;
                CAPTURE(shape.in, shape.out, rank, with_bias);
                numbers(shape, with_bias, formula, count);
                gradients(shape, with_bias, formula);
            }
        }
        const LayerShape shape{17, 33};
        allocations(shape);
        streams(shape);
        files(shape);
        sensitivity({24, 24}, formula);
        std::printf("contract %-28s %s: forward %.3f, merged %.3f, merged - unmerged %.3f of the rounding bound\n", name_.c_str(),
                    sizeof(T) == 4 ? "float " : "double", static_cast<double>(forward_), static_cast<double>(merged_), static_cast<double>(gap_));
    }

private:
    std::vector<std::size_t> ranks(LayerShape shape) const {
        if constexpr (requires(Options& o) { o.rank; }) return {1, 2, std::min(shape.in, shape.out) + 1};
        else return {0};
    }

    template <class Formula, class Count> void numbers(LayerShape shape, bool with_bias, const Formula& formula, const Count& count) {
        Subject<M> s(shape, options_, with_bias, 100);
        auto& layer = s.layer;
        const Tensors tensors(layer.method());
        name_.clear();
        for (const auto& [key, value] : tensors.entries()) name_ += (name_.empty() ? "" : "+") + key;
        const std::size_t trained = count(shape, options_, with_bias);
        CHECK(layer.parameter_count().trained == trained);
        CHECK(layer.parameter_count().total() - layer.parameter_count().frozen == trained);
        std::size_t listed = 0;
        for (const auto& parameter : layer.parameters()) listed += parameter.size();
        CHECK(listed == trained);

        const std::vector<unsigned char> before = s.bytes();
        for (const std::size_t n : {std::size_t{0}, std::size_t{1}, std::size_t{3}, std::size_t{17}}) {
            CAPTURE(n);
            const Matrix<T> x = random_matrix<T>(n, shape.in, 7);
            Matrix<T> y(n, shape.out);
            s.base.forward(x, y);
            if (exceptions_.exact_start) CHECK(same_bytes(layer.forward(x), y));
        }
        disturb(layer, 11);
        const Dense dense = s.dense(formula);
        for (const std::size_t n : {std::size_t{0}, std::size_t{1}, std::size_t{3}, std::size_t{17}}) {
            CAPTURE(n);
            const Matrix<T> x = random_matrix<T>(n, shape.in, 8);
            const Matrix<T> y = layer.forward(x);
            const Real forward = worst_ratio<T>(y, dense, x);
            CHECK(forward <= 1);
            forward_ = std::max(forward_, forward);
            const peft::MergeReport report = layer.merge();
            CHECK(report.journal_bytes <= shape.in * shape.out * sizeof(T));
            const Matrix<T> y_merged = layer.forward(x);
            const Real merged = worst_ratio<T>(y_merged, dense, x);
            CHECK(merged <= 1);
            merged_ = std::max(merged_, merged);
            const Real gap = worst_difference<T>(y_merged, y, dense, x);
            CHECK(gap <= 1);
            gap_ = std::max(gap_, gap);
            layer.unmerge();
            CHECK(s.bytes() == before);
            CHECK(same_bytes(layer.forward(x), y));
        }
    }

    template <class Formula> void gradients(LayerShape shape, bool with_bias, const Formula& formula) {
        for (const std::size_t n : {std::size_t{0}, std::size_t{1}, std::size_t{3}}) {
            CAPTURE(n);
            Subject<Double> exact(shape, std::bit_cast<typename Double::Options>(options_), with_bias, 200, 5);
            disturb(exact.layer, 21);
            const Matrix<double> x = random_matrix<double>(n, shape.in, 9);
            if constexpr (std::is_same_v<T, double>) {
                check_gradients(exact.layer, x, 23);
            } else {
                Subject<M> s(shape, options_, with_bias, 200, 5);
                disturb(s.layer, 21);
                const auto found = s.layer.parameters();
                const auto wanted = exact.layer.parameters();
                REQUIRE(found.size() == wanted.size());
                for (std::size_t k = 0; k < found.size(); ++k) {   // start values may have been rounded
                    for (std::size_t i = 0; i < found[k].size(); ++i) wanted[k].value()[i] = static_cast<double>(found[k].value()[i]);
                    wanted[k].touch();
                }
                Matrix<float> dx(n, shape.in);
                Matrix<double> dx_exact(n, shape.in);
                step(s.layer, random_matrix<float>(n, shape.in, 9), random_matrix<float>(n, shape.out, 23), dx);
                step(exact.layer, x, random_matrix<double>(n, shape.out, 23), dx_exact);
                const std::size_t terms = n + shape.in + shape.out + 8;
                double largest = largest_magnitude(std::as_const(dx_exact).flat());
                for (const auto& parameter : wanted) largest = largest_magnitude(parameter.grad(), largest);
                largest *= condition(exact.dense(formula));
                for (std::size_t k = 0; k < found.size(); ++k) {
                    CAPTURE(found[k].name);
                    CHECK(close_gradients(found[k].grad(), wanted[k].grad(), terms, largest));
                }
                CHECK(close_gradients(std::as_const(dx).flat(), std::as_const(dx_exact).flat(), terms, largest));
            }
        }
    }

    template <class Layer, class U> static void step(Layer& layer, const Matrix<U>& x, const Matrix<U>& g, Matrix<U>& dx) {
        Matrix<U> y(x.rows(), layer.shape().out);
        auto tape = layer.make_tape();
        layer.forward(x, y, tape);
        layer.backward(g, dx, tape);
    }

    void allocations(LayerShape shape) {
        Subject<M> s(shape, options_, true, 300);
        const Matrix<T> x = random_matrix<T>(17, shape.in, 31);
        const Matrix<T> g = random_matrix<T>(17, shape.out, 32);
        Matrix<T> y(17, shape.out);
        Matrix<T> dx(17, shape.in);
        auto tape = s.layer.make_tape();
        for (int k = 0; k < 3; ++k) {
            CAPTURE(k);
            const AllocationCount count;
            s.layer.forward(x, y, tape);
            s.layer.backward(g, dx, tape);
            const std::size_t made = count.so_far();
            if (k != 0) CHECK(made == 0);
        }
        s.layer.forward(x, y);
        const AllocationCount count;
        s.layer.forward(x, y);
        const std::size_t made = count.so_far();
        CHECK(made == 0);
    }

    void streams(LayerShape shape) {
        const auto tensors = [](const Subject<M>& s) {
            std::vector<Real> all;
            const Tensors named(s.layer.method());
            for (const auto& [key, value] : named.entries()) all.insert(all.end(), value.data(), value.data() + value.size());
            return all;
        };
        if (exceptions_.starts_random) {
            CHECK((tensors(Subject<M>(shape, options_, true, 400)) != tensors(Subject<M>(shape, options_, true, 500))));
            CHECK((tensors(Subject<M>(shape, options_, true, 400, 1)) != tensors(Subject<M>(shape, options_, true, 400, 2))));
        }
        CHECK(Subject<M>(shape, options_, true, 400).layer.stream() != Subject<M>(shape, options_, true, 500).layer.stream());
        CHECK((tensors(Subject<M>(shape, options_, true, 400)) == tensors(Subject<M>(shape, options_, true, 400))));
        CHECK((tensors(Subject<M>(shape, options_, true, 400, 1)) == tensors(Subject<M>(shape, options_, true, 400, 1))));
        if constexpr (requires(Options& o) { o.dropout; }) {
            Options options = options_;
            options.dropout = 0.5;
            const Matrix<T> x = random_matrix<T>(3, shape.in, 41);
            const auto train = [&](std::uint64_t stream) {
                Subject<M> s(shape, options, true, 400, stream);
                for (const auto& parameter : s.layer.parameters()) {   // the same numbers for every stream
                    const Matrix<T> values = random_matrix<T>(1, parameter.size(), 42);
                    std::copy_n(values.data(), values.size(), parameter.value().begin());
                    parameter.touch();
                }
                if constexpr (requires(M& m) { m.a().assign(m.a().value()); }) {   // a frozen A too
                    s.layer.method().a().assign(random_matrix<T>(s.layer.method().a().rows(), shape.in, 43));
                }
                auto tape = s.layer.make_tape();
                Matrix<T> y(3, shape.out);
                s.layer.forward(x, y, tape);
                return y;
            };
            const std::uint64_t one = Subject<M>(shape, options, true, 400).layer.stream();
            const std::uint64_t two = Subject<M>(shape, options, true, 500).layer.stream();
            CHECK(same_bytes(train(one), train(one)));
            CHECK_FALSE(same_bytes(train(one), train(two)));
        }
    }

    /// What is saved loads as the same layer, and saves again as the same bytes.
    void files(LayerShape shape) {
        Subject<M> s(shape, options_, true, 700);
        disturb(s.layer, 61);
        peft::AnyAdapter<T> method(s.layer.method());
        const Matrix<T> x = random_matrix<T>(3, shape.in, 62);
        Matrix<T> y(3, shape.out);
        CHECK(files_differ<T>(method, s.base, x, y) == "");
        CHECK(same_bytes(y, s.layer.forward(x)));
    }

    /// The comparisons above are able to fail: without the adapter, with its change transposed, with another scale.
    template <class Formula> void sensitivity(LayerShape shape, const Formula& formula) {
        Subject<M> s(shape, options_, true, 600);
        disturb(s.layer, 51);
        const Matrix<T> x = random_matrix<T>(3, shape.in, 52);
        const Matrix<T> y = s.layer.forward(x);
        const Dense base(s.base);
        const Dense dense = s.dense(formula);
        Dense none = dense;
        Dense transposed = dense;
        Dense doubled = dense;
        bool changes_w = false;
        for (std::size_t o = 0; o < shape.out; ++o) {
            none.b(0, o) = base.b(0, o);
            doubled.b(0, o) = 2 * dense.b(0, o) - base.b(0, o);
            for (std::size_t i = 0; i < shape.in; ++i) {
                none.w(o, i) = base.w(o, i);
                transposed.w(o, i) = base.w(o, i) + dense.w(i, o) - base.w(i, o);
                doubled.w(o, i) = 2 * dense.w(o, i) - base.w(o, i);
                changes_w = changes_w || dense.w(o, i) != base.w(o, i);
            }
        }
        CHECK(worst_ratio<T>(y, dense, x) <= 1);
        CHECK(worst_ratio<T>(y, none, x) > 1);
        CHECK(worst_ratio<T>(y, doubled, x) > 1);
        if (changes_w) CHECK(worst_ratio<T>(y, transposed, x) > 1);
    }

    Options options_;
    Exceptions exceptions_;
    std::string name_;
    Real forward_ = 0;
    Real merged_ = 0;
    Real gap_ = 0;
};

/// Checks all of it. formula(tensors, options, dense) turns the base in `dense` into the adapted layer;
/// count(shape, options, base_has_bias) is the number of trained numbers.
/// (Double is a parameter because clang 14 crashes on Method<double> for a constrained Method.)
template <template <peft::Scalar> class Method, class T, class Formula, class Count, class Double = double>
void contract(const typename Method<T>::Options& options, const Formula& formula, const Count& count, Exceptions exceptions = {}) {
    Contract<Method<T>, Method<Double>>(options, exceptions).run(formula, count);
}

}  // namespace peft_test
