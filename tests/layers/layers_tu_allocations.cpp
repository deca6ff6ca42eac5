#include "support/allocation_counter.cpp"
