#pragma once
#include <peft/adapters/channel/ia3.hpp>
#include <peft/adapters/channel/ssf.hpp>
#include <peft/adapters/full/trained.hpp>
#include <peft/adapters/low_rank/dora.hpp>
#include <peft/adapters/low_rank/lora.hpp>

PEFT_ISA_BEGIN

/// A list of methods: what a registry can make.
template <class... Methods> struct method_list {};

/// All methods of the library, one sorted line each: the only place that names them all.
template <Scalar T>
using all_methods = method_list<
    DoRA<T>,
    IA3<T>,
    LoRA<T>,
    SSF<T>,
    Trained<T>>;

PEFT_ISA_END
