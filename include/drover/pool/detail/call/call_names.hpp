#pragma once

#include <string>

namespace drover { inline namespace v1 { namespace detail {

class Call;

/// The names by which events and errors identify a call: its routine and CallOptions::context.
struct CallNames {
  std::string routine{}, context{};
  /// Without a call, or memory for them, they are empty.
  static CallNames of(const Call* call) noexcept;
};

}}}  // namespace drover::v1::detail
