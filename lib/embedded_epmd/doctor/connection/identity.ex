defmodule EmbeddedEpmd.Doctor.Connection.Identity do
  @moduledoc false
  # The step `:identity`: whether the other node is connected to another node that has this node's name. The probe's
  # handshake cannot tell, and a handshake under this node's name could break a connection that is just being made.

  import EmbeddedEpmd.Doctor.Finding

  alias EmbeddedEpmd.Doctor.Connection
  alias EmbeddedEpmd.Doctor.Connection.{Handshake, HiddenCall}

  @timeout 1_000

  @spec examine(Connection.state()) :: Connection.step()
  def examine(%{here: here, admitted: true} = state) when here != nil do
    link = Handshake.with_timeout(state.link, @timeout)

    case HiddenCall.call(link, state.probe, state.creation, :net_kernel, :node_info, [here]) do
      {:ok, {:ok, info}} -> {[if(connected?(state), do: itself(state), else: taken(state, info))], state}
      {:ok, _unknown} -> {[itself(state)], state}
      # It may not be a node of OTP, and so have no net_kernel.
      {:error, _} -> {[], state}
    end
  end

  def examine(state), do: {[], state}

  defp connected?(state), do: state.atom in Node.list(:connected)

  defp itself(state), do: ok("#{state.node} takes no other node for #{state.here}.")

  defp taken(state, info) do
    problem(
      "#{state.node} is connected to another node called #{state.here}#{from(info)}.",
      "It is connected to only one of two nodes with the same name. It may also be an earlier life of this " <>
        "node, whose end it has not noticed yet.",
      "Give each node a name of its own. If it was this one, wait for net_ticktime, or call there: " <>
        "Node.disconnect(:\"#{state.here}\")"
    )
  end

  # The record net_address of OTP's net_address.hrl. The other node may say anything.
  defp from(info) do
    with true <- is_list(info) and not List.improper?(info),
         {:address, {:net_address, {ip, port}, _host, _protocol, _family}} when port in 0..65_535 <-
           List.keyfind(info, :address, 0),
         address when is_list(address) <- :inet.ntoa(ip) do
      ", from #{address}, port #{port}"
    else
      _ -> ""
    end
  end
end
