#pragma once
#include <peft/adapters/channel/ia3.hpp>
#include <peft/adapters/channel/ssf.hpp>
#include <peft/adapters/full/trained.hpp>
#include <peft/adapters/low_rank/dora.hpp>
#include <peft/adapters/low_rank/lora.hpp>
#include <peft/adapters/low_rank/olora.hpp>
#include <peft/adapters/low_rank/pissa.hpp>
#include <peft/adapters/shared_basis/nola.hpp>
#include <peft/adapters/shared_basis/vera.hpp>
#include <peft/adapters/sparse/sara.hpp>

PEFT_ISA_BEGIN

/// A list of methods: what a registry can make.
template <class... Methods> struct method_list {};

/// All methods of the library, one sorted line each: the only place that names them all.
template <Scalar T>
using all_methods = method_list<
    DoRA<T>,
    IA3<T>,
    LoRA<T>,
    NOLA<T, StoredBasis<T>>,
    NOLA<T>,
    OLoRA<T>,
    PiSSA<T>,
    SSF<T>,
    SaRA<T>,
    Trained<T>,
    VeRA<T>>;

PEFT_ISA_END
