#pragma once

#include <drover/detail/platform.hpp>

/// Only forwards to the header of ExitStatus, which lies above because every folder may include it.
#include <drover/exit_status.hpp>
