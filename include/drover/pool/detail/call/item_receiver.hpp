#pragma once

#include <atomic>
#include <cstdint>

namespace drover { inline namespace v1 { namespace detail {

class DataLink;
class Call;
struct Frame;

/// A call's stream, as its link and the recovery of calls use it. They hold the dispatcher's mutex.
class ItemReceiver {
 public:
  ItemReceiver(const ItemReceiver&) = delete;
  ItemReceiver& operator=(const ItemReceiver&) = delete;

  /// items_out_flag, items_in_flag.
  std::uint8_t flags() const noexcept { return flags_; }
  /// The routine has begun, as far as the stream knows: the call can't be made again.
  bool has_begun() const noexcept { return begun_; }
  /// ITEM, LATEST or CREDIT of the call's worker. Throws Error with protocol_error.
  virtual void receive(DataLink& link, Call& call, const Frame& frame) = 0;

 protected:
  explicit ItemReceiver(std::uint8_t flags) noexcept : flags_(flags) {}
  ~ItemReceiver() = default;

  void set_begun() noexcept { begun_ = true; }

 private:
  const std::uint8_t flags_;
  std::atomic<bool> begun_{false};
};

}}}  // namespace drover::v1::detail
