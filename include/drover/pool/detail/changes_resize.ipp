#pragma once

#include <stdexcept>
#include <utility>

#include <drover/error.hpp>
#include <drover/pool/detail/slots.hpp>

/// resize().
namespace drover { inline namespace v1 { namespace detail {

inline PoolChanges::Resize PoolChanges::begin_resize(std::size_t size) {
  if (size == 0) throw std::invalid_argument("the size for resize() must be at least 1; stop() ends a pool");
  std::size_t known = 0;
  std::vector<Slot::Environment> environments;  // of the slots from `known` on; user code does not run under the mutex
  for (;;) {
    {
      const auto held = slots_.lock();
      if (!slots_.takes_changes()) throw Error(Errc::stopping, "the pool is being stopped");
      if (slots_.size() >= size || (known != 0 && slots_.size() >= known)) {
        if (grows()) end_growth(aborted());
        Resize resize;
        if (size > slots_.size())
          resize.growth = grow(size, environments, known);
        else
          shrink(size, resize.removed);
        advance();
        return resize;
      }
      known = slots_.size();
    }
    environments.clear();
    for (std::size_t at = known; at < size; ++at) environments.push_back(slots_.environment_of(at));
  }
}

/// environments[0] is that of the slot `first`.
inline std::shared_ptr<Growth> PoolChanges::grow(std::size_t size, std::vector<Slot::Environment>& environments,
                                                 std::size_t first) {
  growth_ = std::make_shared<Growth>(slots_.size(), size - slots_.size());
  const auto growth = growth_;
  try {
    slots_.reserve(size);
    while (slots_.size() < size) {
      const std::size_t at = slots_.size();
      slots_.add(std::move(environments[at - first]), latest_).growth = growth;
      slots_.carry_out(at, slots_.slot(at).state.replace(false));
    }
  } catch (...) {  // no memory
    Sessions removed;
    growth_.reset();
    shrink(growth->from(), removed);
    throw;
  }
  return growth;
}

/// The workers of the last slots drain. They are added to `removed`.
inline void PoolChanges::shrink(std::size_t size, Sessions& removed) {
  if (slots_.size() == size) return;
  slots_.remove_from(size, removed);
}

inline void PoolChanges::end_growth(std::exception_ptr failure) noexcept {
  growth_->end(std::move(failure));
  if (growth_->over()->try_set()) growth_.reset();
}

inline void PoolChanges::cancel(const std::shared_ptr<Growth>& growth) {
  const auto held = slots_.lock();
  if (growth_ != growth || !grows()) return;
  Sessions removed;
  end_growth(aborted());
  shrink(growth->from(), removed);
  advance();
}

}}}  // namespace drover::v1::detail
