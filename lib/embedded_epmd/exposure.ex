defmodule EmbeddedEpmd.Exposure do
  @moduledoc false
  # To which hosts a server is exposed in a VM whose OTP does not use `Discovery`, as without `-epmd_module` before
  # OTP 27.2. Nothing tells us there that the VM is about to become a node, so the server has to run before. Until a
  # node needs it, it listens on loopback only.

  alias EmbeddedEpmd.{Environment, Native}

  @doc "Whether any node needs this server: the VM's own, or one that is registered with it."
  @spec needed?(Native.server()) :: boolean()
  def needed?(server), do: Environment.distributed?() or Native.metrics(server).names > 0

  @doc "The settings of a server that no node needs: loopback addresses only, and no hand-over."
  @spec loopback_only(Native.config()) :: Native.config()
  # The addresses of a socket unit cannot be changed; they count unless others have been chosen.
  def loopback_only(config),
    do: %{config | addresses: loopbacks(config.addresses), addresses_chosen: false, hand_over: false}

  defp loopbacks([]), do: ["127.0.0.1", "::1"]

  defp loopbacks(addresses) do
    case Enum.filter(addresses, &loopback?/1) do
      [] -> addresses |> Enum.map(&if(ipv6?(&1), do: "::1", else: "127.0.0.1")) |> Enum.uniq()
      loopbacks -> loopbacks
    end
  end

  defp loopback?(address), do: address == "::1" or String.starts_with?(address, "127.")
  defp ipv6?(address), do: String.contains?(address, ":")
end
