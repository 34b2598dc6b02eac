#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <drover/error.hpp>
#include <drover/os/detail/cpu.hpp>
#include <drover/pool/balancer.hpp>
#include <drover/pool/detail/call/call.hpp>
#include <drover/wire/channel.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// One worker as calls see it: its places for calls in flight and its data socket. Under the dispatcher's mutex.
class Lane {
 public:
  /// The worker behind it. Called with the dispatcher's mutex held.
  class Owner {
   public:
    /// For texts: "worker 'name' (pid)".
    virtual std::string describe() const = 0;
    virtual void send_cancel(std::uint64_t call) = 0;
    virtual void kill_worker() = 0;
    /// The data socket did not take everything; flush again when it is writable.
    virtual void await_writable() = 0;
    /// The kernel is short of memory; flush again after a while.
    virtual void await_memory() = 0;
    /// Nothing more can be written to the data socket.
    virtual void write_failed(std::error_code error) = 0;
    /// Reads what is in the data socket; Dispatcher::deliver() has to follow.
    virtual void read_results() = 0;

   protected:
    ~Owner() = default;
  };

  Lane(Owner& owner, std::size_t capacity) : owner_(owner), capacity_(capacity) {}

  Owner& owner() const noexcept { return owner_; }
  Load load() const noexcept {
    return {.ready = open_ && data_.has_value(), .in_flight = in_flight_, .capacity = capacity_};
  }
  bool has_data() const noexcept { return data_.has_value(); }
  Channel& data() noexcept { return *data_; }
  std::uint64_t last_id() const noexcept { return last_id_; }
  std::size_t in_flight() const noexcept { return in_flight_; }

  void connect(UniqueFd socket, std::size_t max_message) {
    data_.emplace(std::move(socket), max_message);
    data_->distrust();
  }
  void disconnect() noexcept { data_.reset(); }
  void open() noexcept { open_ = true; }
  void close() noexcept { open_ = false; }

  /// Gives the call a place and queues its frame.
  void send(std::shared_ptr<Call> call) {
    if (free_.empty()) {
      free_.reserve(places_.size() + 1);
      places_.emplace_back();
      free_.push_back(static_cast<std::uint32_t>(places_.size() - 1));
    }
    call->slot = free_.back();
    call->id = last_id_ + 1;
    call->lane = this;
    FrameHeader header;
    header.type = FrameType::call;
    header.core = current_core();
    header.slot = call->slot;
    header.id = call->id;
    data_->queue(header, call->request);
    free_.pop_back();
    ++last_id_;
    ++in_flight_;
    core_ = header.core;
    places_[call->slot] = std::move(call);
  }

  /// The worker runs on another core and could be at what is queued.
  bool gathered_enough() const noexcept { return data_ && data_->gathered_enough(core_, worker_core_); }

  /// The worker was last seen on the core that the last call came from.
  bool shares_core() const noexcept { return core_ != 0 && core_ == worker_core_; }

  /// Writes what is queued.
  void flush() {
    if (!data_ || blocked_) return;
    if (const std::error_code error = data_->flush()) return owner_.write_failed(error);
    if (data_->short_of_memory()) return owner_.await_memory();
    if (data_->wants_write()) {
      blocked_ = true;
      owner_.await_writable();
    }
  }

  /// The data socket is writable again.
  void writable() {
    blocked_ = false;
    flush();
  }

  /// The call a RESULT belongs to. Throws Error with protocol_error if there is none.
  std::shared_ptr<Call> answered(const FrameHeader& header) {
    if (header.type != FrameType::result || header.slot >= places_.size() || !places_[header.slot] ||
        places_[header.slot]->id != header.id)
      throw Error(Errc::protocol_error,
                  "a worker answered a call that it was not given (" + std::to_string(header.id) + ")");
    worker_core_ = header.core;
    return places_[header.slot];
  }

  void give_back(Call& call) noexcept {
    free_.push_back(call.slot);
    --in_flight_;
    call.lane = nullptr;
    places_[call.slot].reset();
  }

  /// A caller waits for one of the calls in flight.
  bool has_running() const noexcept {
    return std::any_of(places_.begin(), places_.end(),
                       [](const auto& call) { return call && call->state == CallState::running; });
  }
  /// All calls in flight, to be ended one by one.
  std::vector<std::shared_ptr<Call>> calls() const {
    std::vector<std::shared_ptr<Call>> all;
    for (const auto& call : places_)
      if (call) all.push_back(call);
    return all;
  }

  bool dirty = false;  // has queued frames that the end of the batch flushes

 private:
  Owner& owner_;
  std::size_t capacity_;
  std::optional<Channel> data_;
  std::vector<std::shared_ptr<Call>> places_;
  std::vector<std::uint32_t> free_;
  std::uint64_t last_id_ = 0;
  std::size_t in_flight_ = 0;
  std::uint16_t core_ = 0;         // where the last call came from
  std::uint16_t worker_core_ = 0;  // where the last answer came from
  bool open_ = false;
  bool blocked_ = false;
};

}}}  // namespace drover::v1::detail
