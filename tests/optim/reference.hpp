#pragma once
#include <peft/core/parameter.hpp>

#include <cmath>
#include <vector>

// Hand-written double versions of the update rules, one number at a time, and parameters to run them on.
namespace optim_test {

struct AdamWReference {
    double learning_rate, beta1, beta2, epsilon, weight_decay;
    double m = 0, v = 0;
    int t = 0;

    double step(double value, double g) {
        ++t;
        value = value * (1 - learning_rate * weight_decay);
        m = beta1 * m + (1 - beta1) * g;
        v = beta2 * v + (1 - beta2) * g * g;
        const double m_hat = m / (1 - std::pow(beta1, t));
        const double v_hat = v / (1 - std::pow(beta2, t));
        return value - learning_rate * m_hat / (std::sqrt(v_hat) + epsilon);
    }
};

struct SgdReference {
    double learning_rate, momentum, weight_decay;
    bool nesterov;
    double buffer = 0;
    bool first = true;

    double step(double value, double g) {
        g += weight_decay * value;
        if (momentum != 0) {
            buffer = first ? g : momentum * buffer + g;
            first = false;
            g = nesterov ? g + momentum * buffer : buffer;
        }
        return value - learning_rate * g;
    }
};

template <class T> struct Parameters {
    peft::Parameter<T> a{3, 7};
    peft::Parameter<T> b{1, 5};

    Parameters() {
        a.require_grad();
        b.require_grad();
        fill(a, 0.3);
        fill(b, -1.7);
    }
    peft::ParameterList<T> list() { return {{"a", a.state()}, {"b", b.state()}}; }
    /// Gradients of step t: of both signs and several magnitudes.
    void set_gradients(int t) {
        set(a, t, 0.1);
        set(b, t, 3.0);
    }
    std::vector<double> numbers() const {
        std::vector<double> all;
        for (const auto* p : {&a, &b}) all.insert(all.end(), p->flat().begin(), p->flat().end());
        return all;
    }
    std::vector<double> gradients() const {
        std::vector<double> all;
        for (const auto* p : {&a, &b}) {
            for (const T g : p->state()->grad.flat()) all.push_back(static_cast<double>(g));
        }
        return all;
    }

private:
    static void fill(peft::Parameter<T>& p, double start) {
        for (std::size_t i = 0; i < p.size(); ++i) p.value().data()[i] = static_cast<T>(start + 0.21 * std::sin(1.0 + static_cast<double>(i)));
        p.touch();
    }
    static void set(peft::Parameter<T>& p, int t, double size) {
        for (std::size_t i = 0; i < p.size(); ++i) p.grad().data()[i] = static_cast<T>(size * std::cos(0.7 * t + 1.3 * static_cast<double>(i)));
    }
};

}  // namespace optim_test
