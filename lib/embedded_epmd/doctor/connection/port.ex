defmodule EmbeddedEpmd.Doctor.Connection.Port do
  @moduledoc false
  # The step `:port`: whether the node's port accepts connections.

  import EmbeddedEpmd.Doctor.Finding

  alias EmbeddedEpmd.Doctor.Connection
  alias EmbeddedEpmd.Doctor.Connection.{Address, Reach}

  @spec examine(Connection.state()) :: Connection.step()
  def examine(%{ip: ip, port: port} = state) do
    where = "Port #{port} of #{Address.format_ip(ip)}"

    case Reach.open(ip, port) do
      {:ok, link} -> {[ok("#{where}, the node's, takes connections.")], Map.put(state, :link, link)}
      {:error, reason} -> {[unreachable(reason, where, state)], state}
    end
  end

  defp unreachable(reason, where, state) do
    {what, why} = Reach.explain(reason, where)
    problem(what, "#{why} It is the port of #{state.node}.", remedy(reason, state))
  end

  defp remedy(:econnrefused, state) do
    "If the node has gone, start it again. If it runs, it listens at another address (inet_dist_use_interface), or " <>
      "#{state.host} is another machine."
  end

  defp remedy(_reason, state), do: "Open #{range()} from this machine to #{state.host}."

  # The other node's range is not known here; most sites configure the same one everywhere.
  defp range do
    case {Application.get_env(:kernel, :inet_dist_listen_min), Application.get_env(:kernel, :inet_dist_listen_max)} do
      {nil, _} -> "the ports that nodes take, any unless inet_dist_listen_min and inet_dist_listen_max are set there,"
      {min, nil} -> "port #{min}, which inet_dist_listen_min says here,"
      {min, max} -> "ports #{min} to #{max}, which inet_dist_listen_min and _max say here,"
    end
  end
end
