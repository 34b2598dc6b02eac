#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <exception>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <asio/awaitable.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/error.hpp>
#include <asio/io_context.hpp>
#include <asio/system_error.hpp>

#include <drover/detail/resource_pool/impl.hpp>

#include "support/resource_pool_model.hpp"

namespace pool_model {

/// A clock that the test advances, and a timer that uses it.
struct FakeTime {
  static inline Time current{};
  static Time now() noexcept { return current; }

  class Timer {
   public:
    Timer(asio::execution_context&, const std::shared_ptr<drover::detail::ContextRegistry>&) { only = this; }
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;
    ~Timer() { only = nullptr; }

    void arm(Time at, std::weak_ptr<drover::detail::resource_pool::TimerTarget> target) {
      if (at_) {  // an exception would be taken for a shortage of memory
        std::cerr << "a second timer was armed\n";
        std::abort();
      }
      at_ = at;
      target_ = std::move(target);
    }
    void cancel() noexcept { at_.reset(); }

    bool fire_if_due() {
      if (!at_ || *at_ > current) return false;
      at_.reset();
      if (const auto target = target_.lock()) target->timer_fired();
      return true;
    }

    static inline Timer* only = nullptr;

   private:
    std::optional<Time> at_;
    std::weak_ptr<drover::detail::resource_pool::TimerTarget> target_;
  };
};

using Mismatch = std::runtime_error;

inline void require(bool holds, const char* what) {
  if (!holds) throw Mismatch(what);
}

/// A pool on a fake clock, whose factories and finalizers run until the test ends them.
class Driver {
 public:
  struct Value {
    Generation which;
    Driver* driver;
    bool finalized = false, discarded = false;

    Value(Generation g, Driver* d) : which(g), driver(d) { ++driver->alive_[which.key]; }
    Value(const Value&) = delete;
    Value& operator=(const Value&) = delete;
    ~Value() {
      if (!discarded) --driver->alive_[which.key];
    }
  };
  using Impl = drover::detail::resource_pool::Impl<int, Value, std::hash<int>, std::equal_to<int>, FakeTime>;
  struct Lease {
    Lease() = default;
    explicit Lease(Impl::Reference r) : reference(std::move(r)) {}
    Impl::Reference reference;
  };

  explicit Driver(Rules rules) {
    FakeTime::current = {};
    auto factory = [this](const int& key) { return make(key); };
    Impl::Callbacks callbacks;
    callbacks.factory = std::make_unique<drover::detail::resource_pool::TypedFactory<int, Value, decltype(factory)>>(
        std::move(factory));
    callbacks.finalizer = [this](Value& value) { return finalize(value); };
    callbacks.on_error = [this](const std::exception_ptr&) { ++errors; };
    impl_ = std::make_shared<Impl>(
        context_.get_executor(),
        drover::detail::resource_pool::Rules{rules.ttl, rules.max_idle, false, rules.shards, rules.clear_piece},
        std::move(callbacks));
  }
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;
  ~Driver() {
    impl_->close();
    leases.clear();
  }

  void acquire(int id, int key) {
    signals_[id];
    asio::co_spawn(context_, acquirer(this, id, key),
                   asio::bind_cancellation_slot(signals_[id].slot(), [this, id](const std::exception_ptr& error) {
                     if (error) refused[id] = outcome_of(error);
                     ended_.push_back(id);
                   }));
    settle();
  }

  void cancel(int id) {
    const auto signal = signals_.find(id);
    if (signal == signals_.end()) return;  // it has ended already
    signal->second.emit(asio::cancellation_type::terminal);
    settle();
  }

  void drop(int id) {
    leases.erase(id);
    settle();
  }

  void discard(int id) {
    auto* const entry = leases.at(id).reference.get();
    Value& value = *entry->value;
    if (!value.finalized && !value.discarded) {
      value.discarded = true;
      --alive_[value.which.key];
      discarded_.insert(value.which);
    }
    entry->owner().discard(*entry);
    settle();
  }

  /// If `cancelled`, the wait is cancelled at once.
  void release(int id, int wait, bool cancelled) {
    Lease lease = std::move(leases.at(id));
    leases.erase(id);
    auto* const entry = lease.reference.take();
    await(entry->owner().release_and_wait(*entry), wait, cancelled);
  }
  void expire(int key, int wait) { await(impl_->expire(key), wait, false); }
  void clear(int key, int wait) { await(impl_->clear(key), wait, false); }
  void clear(int wait, bool cancelled) { await(impl_->clear(), wait, cancelled); }

  void advance(drover::Duration by) {
    FakeTime::current += by;
    while (FakeTime::Timer::only->fire_if_due()) settle();
    settle();
  }

  void end(std::map<Generation, std::shared_ptr<drover::detail::AsyncEvent>>& gates, Generation of, Outcome outcome) {
    outcomes_[of] = outcome;
    const auto gate = gates.at(of);
    gates.erase(of);
    gate->set();
    settle();
  }

  Impl& impl() { return *impl_; }
  /// The number of values of a key, without the discarded ones.
  int alive(int key) { return alive_[key]; }

  std::map<int, Lease> leases;
  std::map<int, Outcome> refused;
  std::set<int> done;  // waits that have ended
  std::map<Generation, std::shared_ptr<drover::detail::AsyncEvent>> creating, finalizing;
  std::map<int, int> made, finalized;
  int errors = 0;

 private:
  static Outcome outcome_of(const std::exception_ptr& error) {
    try {
      std::rethrow_exception(error);
    } catch (const asio::system_error& e) {
      return e.code() == asio::error::operation_aborted ? Outcome::cancelled : Outcome::error;
    } catch (...) {
      return Outcome::error;
    }
  }

  static void fail(Outcome outcome) {
    if (outcome == Outcome::error) throw 42;
    if (outcome == Outcome::cancelled) throw asio::system_error(asio::error::operation_aborted);
  }

  asio::awaitable<std::unique_ptr<Value>> make(int key) {
    require(alive(key) == 0 || kept_by_a_lease(key), "a value is created while the previous one exists");
    require(!anything_runs_for(key), "a factory runs beside another call for its key");
    const auto gate = std::make_shared<drover::detail::AsyncEvent>();
    const Generation of{key, ++numbers_};
    creating[of] = gate;
    ++made[key];
    co_await drover::detail::AsyncEvent::wait(gate);
    fail(outcomes_[of]);
    co_return std::make_unique<Value>(of, this);
  }

  asio::awaitable<void> finalize(Value& value) {
    const Generation of = value.which;
    require(!value.finalized, "a value is finalized twice");
    require(value.discarded || !anything_runs_for(of.key), "a finalizer runs beside another call for its key");
    value.finalized = true;
    const auto gate = std::make_shared<drover::detail::AsyncEvent>();
    finalizing[of] = gate;
    ++finalized[of.key];
    co_await drover::detail::AsyncEvent::wait(gate);
    fail(outcomes_[of]);
  }

  /// Does not count the finalizers of discarded values.
  bool anything_runs_for(int key) const {
    const auto runs = [&](const auto& item) { return item.first.key == key && !discarded_.contains(item.first); };
    return std::any_of(creating.begin(), creating.end(), runs) ||
           std::any_of(finalizing.begin(), finalizing.end(), runs);
  }

  bool kept_by_a_lease(int key) {
    for (const auto& [id, lease] : leases)
      if (lease.reference.get()->key == key) return true;
    return false;
  }

  static asio::awaitable<void> acquirer(Driver* self, int id, int key) {
    Lease lease = co_await self->impl_->acquire<Lease>(key);
    require(!lease.reference.get()->value->finalized, "a finalized value is handed out");
    self->leases[id] = std::move(lease);
  }

  void await(asio::awaitable<void> wait, int id, bool cancelled) {
    signals_[id];
    asio::co_spawn(context_, std::move(wait),
                   asio::bind_cancellation_slot(signals_[id].slot(), [this, id](const std::exception_ptr& error) {
                     if (error) require(outcome_of(error) == Outcome::cancelled, "a wait has failed");
                     done.insert(id);
                     ended_.push_back(id);
                   }));
    settle();
    if (cancelled) cancel(id);
  }

  void settle() {
    context_.restart();
    context_.poll();
    for (const int id : ended_) signals_.erase(id);
    ended_.clear();
  }

  std::map<int, int> alive_;
  std::map<int, asio::cancellation_signal> signals_;
  std::vector<int> ended_;
  std::map<Generation, Outcome> outcomes_;
  std::set<Generation> discarded_;
  int numbers_ = 0;
  asio::io_context context_;  // destroyed before the members above, to which its coroutines refer
  std::shared_ptr<Impl> impl_;
};

}  // namespace pool_model
