#include "contract/contract.hpp"

#include <peft/adapters/shared_basis/nola.hpp>

using namespace peft_test;

namespace {

template <peft::Scalar T> using Seeded = peft::NOLA<T>;
template <peft::Scalar T> using Stored = peft::NOLA<T, peft::StoredBasis<T>>;

/// A matrix and the sums of the magnitudes that its elements are made of.
struct Mixed {
    Matrix<Real> value, size;
};
/// start(j) + sum_i c_i basis(i, j), j the flat index.
template <class Start, class Basis> Mixed mixed(std::size_t rows, std::size_t cols, const Matrix<Real>& c, const Start& start, const Basis& basis) {
    Mixed result{Matrix<Real>(rows, cols), Matrix<Real>(rows, cols)};
    for (std::size_t j = 0; j < rows * cols; ++j) {
        Real value = start(j);
        Real size = std::fabs(value);
        for (std::size_t i = 0; i < c.size(); ++i) {
            const Real term = c.data()[i] * basis(i, j);
            value += term;
            size += std::fabs(term);
        }
        result.value.data()[j] = value;
        result.size.data()[j] = size;
    }
    return result;
}
void add(Dense& dense, const peft::NOLAOptions& options, const Mixed& b, const Mixed& a) {
    const Real s = static_cast<Real>(options.alpha) / static_cast<Real>(options.rank);
    for (std::size_t o = 0; o < dense.out(); ++o) {
        for (std::size_t k = 0; k < options.rank; ++k) {
            for (std::size_t i = 0; i < dense.in(); ++i) {
                dense.w(o, i) += s * b.value(o, k) * a.value(k, i);
                dense.w_size(o, i) += std::fabs(s) * b.size(o, k) * a.size(k, i);
            }
        }
    }
    dense.roundings += options.rank + options.basis_a + options.basis_b + 8;
}

/// Number `index` of a basis of k matrices, as the documentation of SeededBasis has it.
class Numbers {
public:
    Numbers(std::uint64_t seed, std::uint64_t stream, std::uint64_t step, std::size_t k)
        : random_({.seed = seed, .stream = stream, .purpose = peft::Purpose::basis, .step = step}), scale_(1 / std::sqrt(static_cast<double>(k))) {}
    double operator()(std::size_t index) const { return scale_ * (2 * random_.uniform(index) - 1); }

private:
    peft::CounterRandom random_;
    double scale_;
};
std::uint64_t stream_in(const Matrix<Real>& words) {
    const auto word = [&](std::size_t i) { return static_cast<std::uint32_t>(static_cast<std::int32_t>(words(0, i))); };
    return word(0) | std::uint64_t{word(1)} << 32;
}

const auto seeded_formula = [](const Tensors& t, const peft::NOLAOptions& options, Dense& dense) {
    const std::uint64_t stream = stream_in(t["nola_stream"]);
    const Numbers a(options.seed, stream, 0, options.basis_a), b(options.seed, stream, 1, options.basis_b), a0(options.seed, stream, 2, dense.in());
    const auto real = [](double x) { return static_cast<Real>(x); };
    add(dense, options,
        mixed(dense.out(), options.rank, t["nola_beta"], [](std::size_t) { return Real(0); }, [&](std::size_t i, std::size_t j) { return real(b(i * dense.out() * options.rank + j)); }),
        mixed(options.rank, dense.in(), t["nola_alpha"], [&](std::size_t j) { return real(a0(j)); }, [&](std::size_t i, std::size_t j) { return real(a(i * options.rank * dense.in() + j)); }));
};
const auto stored_formula = [](const Tensors& t, const peft::NOLAOptions& options, Dense& dense) {
    const auto& a = t["nola_basis_A"];
    const auto& b = t["nola_basis_B"];
    const auto& a0 = t["nola_A0"];
    const auto& b0 = t["nola_B0"];
    add(dense, options,
        mixed(dense.out(), options.rank, t["nola_beta"], [&](std::size_t j) { return b0.data()[j]; }, [&](std::size_t i, std::size_t j) { return b(i, j); }),
        mixed(options.rank, dense.in(), t["nola_alpha"], [&](std::size_t j) { return a0.data()[j]; }, [&](std::size_t i, std::size_t j) { return a(i, j); }));
};
const auto nola_count = [](LayerShape, const peft::NOLAOptions& options, bool) { return options.basis_a + options.basis_b; };

template <class T> Matrix<T> factor(peft::Parameter<T>& parameter) { return Matrix<T>(std::as_const(parameter).value()); }

}  // namespace

TEMPLATE_TEST_CASE("nola: keeps the contract", "", float, double) {
    contract<Seeded, TestType>({.rank = 2, .basis_a = 5, .basis_b = 9, .alpha = 3, .seed = 4}, seeded_formula, nola_count);
}
TEMPLATE_TEST_CASE("nola: with dropout it keeps the contract", "", float, double) {
    contract<Seeded, TestType>({.rank = 2, .basis_a = 3, .basis_b = 1, .alpha = 3, .dropout = 0.3}, seeded_formula, nola_count);
}
TEMPLATE_TEST_CASE("nola: with a stored basis it keeps the contract", "", float, double) {
    contract<Stored, TestType>({.rank = 2, .basis_a = 5, .basis_b = 9, .alpha = 3, .dropout = 0.3}, stored_formula, nola_count);
}

TEMPLATE_TEST_CASE("nola: it is the LoRA of its expanded factors, whose gradients it projects on the basis", "", float, double) {
    using T = TestType;
    constexpr LayerShape shape{33, 17};
    constexpr std::size_t n = 4;
    const peft::NOLAOptions options{.rank = 3, .basis_a = 11, .basis_b = 6, .alpha = 5, .dropout = 0.25, .seed = 8};
    peft::DenseLinear<T> base(random_matrix<T>(shape.out, shape.in, 1), random_matrix<T>(1, shape.out, 2));
    auto layer = peft::adapt(base, peft::NOLA<T>(shape, options), 77);
    disturb(layer, 3);
    auto plain = peft::adapt(base, layer.method().to_lora(), 77);
    CHECK(plain.method().scale() == layer.method().scale());

    const Matrix<T> x = random_matrix<T>(n, shape.in, 4), dy = random_matrix<T>(n, shape.out, 5);
    CHECK(same_bytes(layer.forward(x), plain.forward(x)));
    CHECK(same_bytes(peft::merged_copy(layer).stored(), peft::merged_copy(plain).stored()));
    Matrix<T> y(n, shape.out), dx(n, shape.in), y_plain(n, shape.out), dx_plain(n, shape.in);
    auto tape = layer.make_tape();
    auto tape_plain = plain.make_tape();
    layer.forward(x, y, tape);
    plain.forward(x, y_plain, tape_plain);
    CHECK(same_bytes(y, y_plain));
    layer.backward(dy, dx, tape);
    plain.backward(dy, dx_plain, tape_plain);
    CHECK(same_bytes(dx, dx_plain));

    const auto check = [&](const Matrix<T>& gradient, peft::MatrixView<const T> coefficients, const Numbers& basis) {
        for (std::size_t i = 0; i < coefficients.cols(); ++i) {
            Real sum = 0;
            Real size = 0;
            for (std::size_t j = 0; j < gradient.size(); ++j) {
                const Real term = static_cast<Real>(gradient.data()[j]) * static_cast<Real>(basis(i * gradient.size() + j));
                sum += term;
                size += std::fabs(term);
            }
            CHECK(std::fabs(static_cast<Real>(coefficients(0, i)) - sum) <= gamma<T>(gradient.size() + 3) * size);
            CHECK(std::fabs(sum) > gamma<T>(gradient.size() + 3) * size);
        }
    };
    check(plain.method().a().state()->grad, layer.method().alpha().grad(), Numbers(8, 77, 0, 11));
    check(plain.method().b().state()->grad, layer.method().beta().grad(), Numbers(8, 77, 1, 6));
}

TEMPLATE_TEST_CASE("nola: with beta at zero the gradient of alpha is exactly zero, and that of beta is not", "", float, double) {
    using T = TestType;
    constexpr LayerShape shape{33, 17};
    peft::DenseLinear<T> base(random_matrix<T>(shape.out, shape.in, 1));
    auto layer = peft::adapt(base, peft::NOLA<T>(shape, {.rank = 3, .basis_a = 11, .basis_b = 6}));
    const Matrix<T> x = random_matrix<T>(4, shape.in, 4);
    Matrix<T> y(4, shape.out), dx(4, shape.in);
    auto tape = layer.make_tape();
    layer.forward(x, y, tape);
    layer.backward(random_matrix<T>(4, shape.out, 5), dx, tape);
    for (const T g : layer.method().alpha().state()->grad.flat()) CHECK(g == 0);
    for (const T g : layer.method().beta().state()->grad.flat()) CHECK(g != 0);
}

TEST_CASE("nola: the number of trained numbers depends neither on the rank nor on the layer, and nothing else is held") {
    for (const LayerShape shape : {LayerShape{8, 5}, LayerShape{100, 300}}) {
        for (const std::size_t rank : {std::size_t{1}, std::size_t{16}}) {
            peft::DenseLinear<float> base(shape, false);
            auto layer = peft::adapt(base, peft::NOLA<float>(shape, {.rank = rank, .basis_a = 20, .basis_b = 30}));
            CHECK(layer.parameter_count().trained == 50);
            CHECK(layer.parameter_count().frozen == shape.in * shape.out);
        }
    }
}

TEST_CASE("nola: layers of one shape have bases of their own, and a basis stays with its method") {
    constexpr LayerShape shape{12, 9};
    const peft::NOLAOptions options{.rank = 2, .basis_a = 4, .basis_b = 4};
    peft::DenseLinear<float> one(random_matrix<float>(shape.out, shape.in, 1)), two(random_matrix<float>(shape.out, shape.in, 2));
    const auto set = [](auto layer) {
        disturb(layer, 9);
        return layer.method();
    };
    auto first = set(peft::adapt(one, peft::NOLA<float>(shape, options)));
    auto second = set(peft::adapt(two, peft::NOLA<float>(shape, options)));
    auto again = set(peft::adapt(one, peft::NOLA<float>(shape, options)));
    auto lora = first.to_lora();
    CHECK_FALSE(same_bytes(factor(lora.a()), factor(second.to_lora().a())));
    CHECK_FALSE(same_bytes(factor(lora.b()), factor(second.to_lora().b())));
    CHECK(same_bytes(factor(lora.a()), factor(again.to_lora().a())));
    auto moved = peft::adapt(two, first, 1234).method();   // as a file that is loaded for a layer of another name
    CHECK(same_bytes(factor(lora.a()), factor(moved.to_lora().a())));
    CHECK(same_bytes(factor(lora.b()), factor(moved.to_lora().b())));
    peft::NOLAOptions other = options;
    other.seed = 1;
    auto reseeded = set(peft::adapt(one, peft::NOLA<float>(shape, other)));
    CHECK_FALSE(same_bytes(factor(lora.b()), factor(reseeded.to_lora().b())));
}

TEMPLATE_TEST_CASE("nola: a stored basis that nobody assigned holds the numbers of the seeded one", "", float, double) {
    using T = TestType;
    constexpr LayerShape shape{12, 9};
    const peft::NOLAOptions options{.rank = 2, .basis_a = 4, .basis_b = 5, .seed = 6};
    peft::DenseLinear<T> base(random_matrix<T>(shape.out, shape.in, 1));
    auto layer = peft::adapt(base, peft::NOLA<T, peft::StoredBasis<T>>(shape, options), 55);
    const auto same = [](const peft::Parameter<T>& held, const Numbers& numbers) {
        for (std::size_t j = 0; j < held.size(); ++j) {
            if (held.flat()[j] != static_cast<T>(numbers(j))) return false;
        }
        return true;
    };
    auto& basis = layer.method().basis();
    CHECK(same(basis.a(), Numbers(6, 55, 0, 4)));
    CHECK(same(basis.b(), Numbers(6, 55, 1, 5)));
    CHECK(same(basis.a0(), Numbers(6, 55, 2, shape.in)));
    for (const T value : basis.b0().flat()) CHECK(value == 0);

    // what was assigned before adapt is kept
    peft::NOLA<T, peft::StoredBasis<T>> given(shape, options);
    const Matrix<T> a0 = random_matrix<T>(2, shape.in, 7);
    given.basis().a0().assign(a0);
    auto other = peft::adapt(base, given, 55);
    CHECK(same_bytes(factor(other.method().basis().a0()), a0));
    CHECK(same(other.method().basis().a(), Numbers(6, 55, 0, 4)));
}

TEMPLATE_TEST_CASE("nola: the number of threads changes no bit of forward and backward", "", float, double) {
    using T = TestType;
    constexpr LayerShape shape{300, 200};
    const auto run = [&](int threads) {
        peft::set_threads(threads);
        peft::DenseLinear<T> base(random_matrix<T>(shape.out, shape.in, 1));
        auto layer = peft::adapt(base, peft::NOLA<T>(shape, {.rank = 3, .basis_a = 100, .basis_b = 77}));
        disturb(layer, 3);
        const Matrix<T> x = random_matrix<T>(4, shape.in, 4);
        Matrix<T> y(4, shape.out), dx(4, shape.in);
        auto tape = layer.make_tape();
        layer.forward(x, y, tape);
        layer.backward(random_matrix<T>(4, shape.out, 5), dx, tape);
        peft::set_threads(0);
        std::vector<Matrix<T>> all{y, dx, layer.method().alpha().state()->grad, layer.method().beta().state()->grad};
        return all;
    };
    const auto one = run(1);
    for (const int threads : {2, 5}) {
        const auto many = run(threads);
        for (std::size_t k = 0; k < one.size(); ++k) CHECK(same_bytes(one[k], many[k]));
    }
}

TEMPLATE_TEST_CASE("nola: training steps that change the coefficients allocate nothing", "", Seeded<float>, Stored<double>) {
    using T = typename TestType::value_type;
    constexpr LayerShape shape{40, 30};
    peft::DenseLinear<T> base(random_matrix<T>(shape.out, shape.in, 1));
    auto layer = peft::adapt(base, TestType(shape, {.rank = 3, .basis_a = 10, .basis_b = 7, .dropout = 0.1}));
    const Matrix<T> x = random_matrix<T>(5, shape.in, 2), dy = random_matrix<T>(5, shape.out, 3);
    Matrix<T> y(5, shape.out), dx(5, shape.in);
    auto tape = layer.make_tape();
    const auto parameters = layer.parameters();
    for (int step = 0; step < 4; ++step) {
        const AllocationCount count;
        layer.forward(x, y, tape);
        layer.backward(dy, dx, tape);
        for (const auto& parameter : parameters) {
            parameter.value()[0] += T(0.5);
            parameter.touch();
        }
        const std::size_t made = count.so_far();
        if (step > 0) CHECK(made == 0);
    }
}

TEST_CASE("nola: options out of range are refused by name, and a basis is asked for only when it is settled") {
    using peft::NOLA;
    using Catch::Matchers::ContainsSubstring;
    const LayerShape shape{3, 4};
    CHECK_THROWS_WITH(NOLA<float>(shape, {.basis_a = 0}), ContainsSubstring("nola: basis_a") && ContainsSubstring("at least 1"));
    CHECK_THROWS_WITH(NOLA<float>(shape, {.basis_b = 0}), ContainsSubstring("nola: basis_b"));
    CHECK_THROWS_AS(NOLA<float>(shape, {.rank = 0}), peft::OptionError);
    CHECK_THROWS_AS(NOLA<float>(shape, {.dropout = 1}), peft::OptionError);
    CHECK_THROWS_AS(NOLA<float>(shape, {.alpha = 1e300}), peft::OptionError);
    const NOLA<float> fresh(shape);
    CHECK_THROWS_WITH(fresh.to_lora(), ContainsSubstring("nola: to_lora"));
    // the defaults of the authors' class
    CHECK(fresh.options().rank == 16);
    CHECK(fresh.options().basis_a == 1024);
    CHECK(fresh.options().basis_b == 1024);
    CHECK(fresh.options().alpha == 1);
}
