// Which instruction sets this CPU has, and which kernel is used.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kernel.hpp"

namespace rmsprop_fast::dispatch {

// Names of the kernels that this CPU can run, best first.
std::vector<std::string> kernel_names();

// The kernel in use: the best one, unless the environment variable RMSPROP_FAST_KERNEL or `select` named another.
std::string kernel_name();
const KernelTable& kernels();

// Uses the kernel of that name from now on. Throws std::invalid_argument, with the choices, if there is none here.
void select(std::string_view name);

// Obeys RMSPROP_FAST_KERNEL; throws as `select` does.
void select_from_environment();

}  // namespace rmsprop_fast::dispatch
