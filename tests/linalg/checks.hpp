#pragma once
#include <peft/core/matrix.hpp>
#include <peft/core/random.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

// Matrices with known properties, and the errors of a decomposition in units of epsilon, by plain loops.

namespace peft::test {

struct Extent {
    std::size_t rows, cols;
};
inline const std::vector<Extent>& extents() {
    static const std::vector<Extent> all{{1, 1}, {1, 7}, {7, 1}, {3, 5}, {2, 2}, {64, 64}, {130, 70}, {37, 53}, {33, 31}, {257, 129}, {20, 200}, {200, 20}};
    return all;
}

template <class T> Matrix<T> random_matrix(std::size_t rows, std::size_t cols, std::uint64_t seed) {
    Matrix<T> a(rows, cols);
    const CounterRandom random({.seed = seed, .purpose = Purpose::data});
    for (std::size_t i = 0; i < a.size(); ++i) a.data()[i] = static_cast<T>(2 * random.uniform(i) - 1);
    return a;
}

/// left * right, summed in long double.
template <class T> Matrix<T> product(const Matrix<T>& left, const Matrix<T>& right) {
    Matrix<T> result(left.rows(), right.cols());
    std::vector<long double> sums(right.cols());
    for (std::size_t i = 0; i < left.rows(); ++i) {
        std::fill(sums.begin(), sums.end(), 0.0L);
        for (std::size_t k = 0; k < left.cols(); ++k)
            for (std::size_t j = 0; j < right.cols(); ++j) sums[j] += static_cast<long double>(left(i, k)) * static_cast<long double>(right(k, j));
        for (std::size_t j = 0; j < right.cols(); ++j) result(i, j) = static_cast<T>(sums[j]);
    }
    return result;
}
template <class T> Matrix<T> transposed(const Matrix<T>& a) {
    Matrix<T> result(a.cols(), a.rows());
    for (std::size_t i = 0; i < a.rows(); ++i)
        for (std::size_t j = 0; j < a.cols(); ++j) result(j, i) = a(i, j);
    return result;
}

struct Named {
    std::string name;
    Matrix<double> a;
};
/// Matrices that decompositions are known to stumble over.
inline std::vector<Named> hard_matrices() {
    std::vector<Named> all;
    const auto add = [&](const char* name, std::size_t rows, std::size_t cols, auto entry) {
        Matrix<double> a(rows, cols);
        for (std::size_t i = 0; i < rows; ++i)
            for (std::size_t j = 0; j < cols; ++j) a(i, j) = entry(static_cast<double>(i), static_cast<double>(j));
        all.push_back({name, std::move(a)});
    };
    all.push_back({"rank 3", product(random_matrix<double>(60, 3, 1), random_matrix<double>(3, 40, 2))});
    all.push_back({"rank 3, tall", product(random_matrix<double>(90, 3, 3), random_matrix<double>(3, 20, 4))});
    all.push_back({"rank 3, wide", product(random_matrix<double>(20, 3, 5), random_matrix<double>(3, 90, 6))});
    add("zero", 17, 9, [](double, double) { return 0.0; });
    add("zero, wide", 9, 30, [](double, double) { return 0.0; });
    add("identity", 40, 40, [](double i, double j) { return i == j ? 1.0 : 0.0; });
    add("reversed identity", 40, 40, [](double i, double j) { return i + j == 39 ? -1.0 : 0.0; });
    add("ones", 35, 50, [](double, double) { return 1.0; });
    add("Hilbert", 50, 50, [](double i, double j) { return 1 / (i + j + 1); });
    add("falling diagonal", 40, 40, [](double i, double j) { return i == j ? std::pow(0.3, i) : 0.0; });
    add("rising diagonal with neighbours", 40, 40, [](double i, double j) { return i == j || i + 1 == j ? std::pow(0.3, 39 - i) : 0.0; });
    add("falling rows", 50, 40, [](double i, double j) { return std::pow(0.5, i) * std::cos(1 + 3 * i * j + j); });
    add("rising columns", 50, 40, [](double i, double j) { return std::pow(0.5, 39 - j) * std::cos(1 + 3 * i * j + i); });
    add("bidiagonal with zeros on the diagonal", 30, 30, [](double i, double j) { return i + 1 == j ? 1.0 : i == j && std::fmod(i, 7) != 3 ? 0.5 : 0.0; });
    add("nilpotent", 30, 30, [](double i, double j) { return i + 1 == j ? 1.0 : 0.0; });
    add("Kahan", 40, 40, [](double i, double j) { return i == j ? std::pow(0.9, i) : j > i ? -std::sqrt(1 - 0.81) * std::pow(0.9, i) : 0.0; });
    add("one entry", 23, 29, [](double i, double j) { return i == 5 && j == 11 ? -2.0 : 0.0; });
    const Matrix<double> q = random_matrix<double>(1, 48, 9);   // a reflection: every singular value is 1
    double square = 0;
    for (const double value : q.flat()) square += value * value;
    add("reflection", 48, 48, [&](double i, double j) { return (i == j ? 1.0 : 0.0) - 2 * q(0, static_cast<std::size_t>(i)) * q(0, static_cast<std::size_t>(j)) / square; });
    return all;
}
template <class T> Matrix<T> as(const Matrix<double>& a) {
    Matrix<T> result(a.rows(), a.cols());
    for (std::size_t i = 0; i < a.size(); ++i) result.data()[i] = static_cast<T>(a.data()[i]);
    return result;
}

template <class T> double norm(const Matrix<T>& a) {
    double sum = 0;
    for (const T value : a.flat()) sum += static_cast<double>(value) * static_cast<double>(value);
    return std::sqrt(sum);
}
template <class T> double distance(const Matrix<T>& a, const Matrix<T>& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        const double difference = static_cast<double>(a.data()[i]) - static_cast<double>(b.data()[i]);
        sum += difference * difference;
    }
    return std::sqrt(sum);
}

/// |a - b|_F / (epsilon sqrt(k) |a|_F): k steps, each of which rounds all of a, with errors that add like a random walk.
template <class T> double relative_error(const Matrix<T>& a, const Matrix<T>& b) {
    const double k = static_cast<double>(std::min(a.rows(), a.cols()));
    const double scale = norm(a);
    return distance(a, b) / (static_cast<double>(std::numeric_limits<T>::epsilon()) * std::sqrt(k) * (scale == 0 ? 1 : scale));
}
/// |q^T q - 1|_F / (epsilon k): each column is off by the error of k reflections or rotations, which adds like sqrt(k), and the
/// norm of k columns is sqrt(k) times that.
template <class T> double orthonormality_error(const Matrix<T>& q) {
    const Matrix<T> gram = product(transposed(q), q);
    Matrix<T> identity(gram.rows(), gram.cols());
    for (std::size_t i = 0; i < gram.rows(); ++i) identity(i, i) = T(1);
    return distance(gram, identity) / (static_cast<double>(std::numeric_limits<T>::epsilon()) * static_cast<double>(gram.rows()));
}

}  // namespace peft::test
