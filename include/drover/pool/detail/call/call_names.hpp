#pragma once

#include <string>

namespace drover { inline namespace v1 { namespace detail {

class Call;

/// What events tell of a call.
struct CallNames {
  std::string routine{}, context{};
  /// Without a call, or memory for them, they are empty.
  static CallNames of(const Call* call) noexcept;
};

}}}  // namespace drover::v1::detail
