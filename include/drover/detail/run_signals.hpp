#pragma once

#include <memory>
#include <utility>
#include <vector>

#include <asio/execution_context.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The signals that have asked a run() to end, for the code that runs in it. Each context that run() has created has
/// one RunSignals, other contexts have none. Used on the context's thread only.
class RunSignals final : public asio::execution_context::service {
 public:
  inline static asio::execution_context::id id;

  /// Acts on signals itself, whatever the coroutine that owns it does.
  class Target {
   public:
    /// Called for the second and each later signal. The first one cancels the coroutine.
    virtual void on_signal(unsigned count) = 0;

   protected:
    ~Target() = default;
  };

  explicit RunSignals(asio::execution_context& context) : service(context) {}

  /// Null if run() has not created the context.
  static RunSignals* find(asio::execution_context& context) {
    return asio::has_service<RunSignals>(context) ? &asio::use_service<RunSignals>(context) : nullptr;
  }

  unsigned count() const noexcept { return count_; }
  void add(const std::shared_ptr<Target>& target) {
    std::erase_if(targets_, [](const auto& weak) { return weak.expired(); });
    targets_.push_back(target);
  }
  void signalled() {
    if (++count_ < 2) return;
    const auto targets = targets_;
    for (const auto& weak : targets)
      if (const auto target = weak.lock()) target->on_signal(count_);
  }

 private:
  void shutdown() noexcept override { targets_.clear(); }

  unsigned count_ = 0;
  std::vector<std::weak_ptr<Target>> targets_;
};

}}}  // namespace drover::v1::detail
