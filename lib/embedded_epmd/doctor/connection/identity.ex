defmodule EmbeddedEpmd.Doctor.Connection.Identity do
  @moduledoc false
  # The step `:identity`: whether the other node is connected to another node that has this node's name. The probe's
  # handshake cannot tell, and a handshake under this node's name could break a connection that is just being made.

  import EmbeddedEpmd.Doctor.Finding

  alias EmbeddedEpmd.Doctor.Connection
  alias EmbeddedEpmd.{Handshake, HiddenCall}

  @patience 1_000

  @spec examine(Connection.way()) :: Connection.step()
  def examine(%{here: here, admitted: true} = way) when here != nil do
    link = Handshake.within(way.link, @patience)

    case HiddenCall.call(link, way.probe, way.creation, :net_kernel, :node_info, [here]) do
      {:ok, {:ok, info}} -> {[if(connected?(way), do: itself(way), else: taken(way, info))], way}
      {:ok, _unknown} -> {[itself(way)], way}
      # It may not be a node of OTP, and so have no net_kernel.
      {:error, _} -> {[], way}
    end
  end

  def examine(way), do: {[], way}

  defp connected?(way), do: way.atom in Node.list(:connected)

  defp itself(way), do: ok("#{way.node} takes no other node for #{way.here}.")

  defp taken(way, info) do
    problem(
      "#{way.node} is connected to another node called #{way.here}#{from(info)}.",
      "Of two nodes of one name it talks to one only. It may also be this node's last life, whose end it has not seen.",
      "Give each node a name of its own. If it was this one, wait for net_ticktime, or call there: " <>
        "Node.disconnect(:\"#{way.here}\")"
    )
  end

  # The record net_address of OTP's net_address.hrl.
  defp from(info) do
    case List.keyfind(info, :address, 0) do
      {:address, {:net_address, {ip, port}, _host, _protocol, _family}} -> ", from #{:inet.ntoa(ip)}, port #{port}"
      _ -> ""
    end
  end
end
