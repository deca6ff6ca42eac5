#include "replay.inc.hpp"

template golden::Result golden::replay<double>(const std::string&);
