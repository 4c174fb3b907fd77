defmodule EmbeddedEpmd.Exposure do
  @moduledoc false
  # How far a server reaches in a VM to which OTP does not route through us, as without `-epmd_module` before OTP 27.2.
  # Nothing tells us there that the VM is about to become a node: the server has to be there before. Until a node needs
  # it, only this host can see it.

  alias EmbeddedEpmd.{Environment, Native}

  @doc "Whether any node needs this server: the VM's own, or one that is registered here."
  @spec needed?(Native.server()) :: boolean()
  def needed?(server), do: Environment.distributed?() or Native.metrics(server).names > 0

  @doc "The settings of a server that nobody needs: loopback only, and no standby that nodes could rely on."
  @spec narrow(Native.config()) :: Native.config()
  # Those of a socket unit cannot be narrowed: they are nobody's choice.
  def narrow(config),
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
