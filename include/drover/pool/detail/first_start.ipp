#pragma once

#include <memory>
#include <utility>

#include <drover/pool/detail/first_start.hpp>
#include <drover/pool/detail/slots.hpp>

namespace drover { inline namespace v1 { namespace detail {

inline std::shared_ptr<AsyncEvent> FirstStart::await_fork_server() {
  if (slots_.options().launch != Launch::fork) return nullptr;
  const auto ready = std::make_shared<AsyncEvent>();
  const Slot::Options options = [this] {
    const auto held = slots_.lock();
    return slots_.changes().latest_options();
  }();
  return slots_.forks().may_start(options, [ready] { ready->set(); }) ? nullptr : ready;
}

inline std::shared_ptr<AsyncEvent> FirstStart::await_room() {
  const auto held = slots_.lock();
  if (failure_ || slots_.size() - ready_ < most_) return nullptr;
  return room_ = std::make_shared<AsyncEvent>();
}

inline bool FirstStart::start_worker(std::size_t at) {
  Slot::Environment environment = slots_.factory().environment_of(at);
  std::shared_ptr<WorkerSession> session;
  {
    const auto held = slots_.lock();
    if (failure_ || slots_.stopping()) return false;
    slots_.reserve(size_);
    Slot& slot = slots_.add(std::move(environment), slots_.changes().latest_options());
    session = slots_.factory().worker(slot.options, &slot);
    slot.session = session;
    slot.session_options = slot.options;
    slot.state.launched();
  }
  session->start(slots_.options().start_timeout);
  return true;
}

inline void FirstStart::add_dormant_slots() {
  const std::size_t most = slots_.options().max_size;
  for (std::size_t at = size_; at < most; ++at) {
    Slot::Environment environment = slots_.factory().environment_of(at);
    const auto held = slots_.lock();
    if (failure_ || slots_.stopping()) return;
    if (at == size_) slots_.reserve(most);
    slots_.add_dormant(std::move(environment));
  }
}

inline std::exception_ptr FirstStart::end() {
  const auto held = slots_.lock();
  under_way_ = false;
  std::exception_ptr failure = std::exchange(failure_, nullptr);
  if (failure || slots_.stopping()) return failure;
  slots_.changes().begin_watching();
  slots_.elasticity().begin();
  slots_.spares().fill();
  return nullptr;
}

}}}  // namespace drover::v1::detail
