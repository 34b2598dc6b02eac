#pragma once

#include <stdexcept>

namespace drover { inline namespace v1 { namespace detail {

/// The arguments of a call do not match the routine.
class BadArguments : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}}}  // namespace drover::v1::detail
