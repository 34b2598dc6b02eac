#pragma once

#include <drover/detail/platform.hpp>

#include <drover/exit_status.hpp>
