#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <drover/worker/detail/routine.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Routines by name.
class RoutineTable {
 public:
  /// Returns false if the name is already used.
  bool add(std::string name, std::unique_ptr<Routine> routine) {
    return routines_.try_emplace(std::move(name), std::move(routine)).second;
  }

  using Entry = std::pair<const std::string, std::unique_ptr<Routine>>;

  /// Null if there is none. Valid as long as the table.
  const Entry* find_entry(std::string_view name) const {
    const auto found = routines_.find(name);
    return found == routines_.end() ? nullptr : &*found;
  }
  Routine* find(std::string_view name) const {
    const Entry* const found = find_entry(name);
    return found == nullptr ? nullptr : found->second.get();
  }

  /// In alphabetical order.
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& [name, routine] : routines_) names.push_back(name);
    std::sort(names.begin(), names.end());
    return names;
  }

  bool any_takes_stop_token() const {
    return std::any_of(routines_.begin(), routines_.end(),
                       [](const auto& entry) { return entry.second->takes_stop_token(); });
  }
  bool any_takes_descriptors() const {
    return std::any_of(routines_.begin(), routines_.end(),
                       [](const auto& entry) { return entry.second->takes_descriptors(); });
  }

 private:
  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };

  std::unordered_map<std::string, std::unique_ptr<Routine>, Hash, std::equal_to<>> routines_;
};

}}}  // namespace drover::v1::detail
