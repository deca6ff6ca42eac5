#pragma once
#include "model.hpp"

#include <vector>

namespace finetune {

/// Outputs of every linear layer for some of its real inputs, before the merge, and how far rounding may move them:
///   |y - y'| <= 2 gamma_n * Y,  gamma_n = n u / (1 - n u),  u = 2^-24,
/// where Y is the sum of the absolute values of all terms of y, and n the longest chain of roundings of a term: a sum over
/// `in` inputs, one over the rank, and a few operations more. Both ways of computing y lie within gamma_n * Y of the exact
/// value. Source: Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, lemma 3.1 and section 3.5.
class MergeCheck {
public:
    /// Takes the outputs of the unmerged network.
    MergeCheck(Network& network, const Batch& batch, std::size_t rank);
    /// The largest |y - y'| / bound over all outputs of the merged network: at most 1, unless something is wrong.
    double worst(Network& merged) const;

private:
    struct Record {
        peft::Matrix<float> x;
        peft::Matrix<float> y;
        peft::Matrix<double> bound;
    };
    std::vector<Record> layers_;
};

}  // namespace finetune
