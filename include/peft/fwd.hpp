#pragma once
#include <peft/core/scalar.hpp>

// Names of the public templates, no definitions: for headers that only mention them.

PEFT_BEGIN

template <class T> class Matrix;
template <class T> class MatrixView;
template <class T> class StridedView;
template <class T> class Parameter;
template <Scalar T, StorageScalar S> class DenseLinear;
template <Scalar T, StorageScalar S> class DenseLinearView;
template <Scalar T> class MergePlan;
template <Scalar T> struct MergeRecord;
template <Scalar T> struct Qr;
template <Scalar T> struct Svd;
template <Scalar T, StorageScalar S> class TransposedLinear;
struct LayerShape;
struct MergeReport;
struct RandomizedSvdOptions;
class Value;

PEFT_END

PEFT_ISA_BEGIN

template <class Base, class Method> class Adapted;
template <Scalar T> class AdamW;
template <Scalar T> class AnyAdapter;
template <Scalar T> class Bank;
template <Scalar T> class Chain;
template <Scalar T> class DoRA;
template <Scalar T> class IA3;
template <Scalar T> class LoRA;
template <Scalar T, class Basis> class NOLA;
template <Scalar T> class SGD;
template <Scalar T> class SSF;
template <Scalar T> class SaRA;
template <Scalar T> struct SharedProjection;
template <Scalar T> class StoredBasis;
template <Scalar T> class Trained;
template <Scalar T> class VeRA;

PEFT_ISA_END
