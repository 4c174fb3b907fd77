defmodule EmbeddedEpmd.Roles do
  @moduledoc false
  # Which nodes of this host own the EPMD's port, and which stand by, as far as /proc shows. Owner and standby both
  # hold the listener. Only the owner listens on the Unix socket at which standbys connect.

  alias EmbeddedEpmd.Doctor.Linux

  @type role :: :owner | :standby
  @type t :: %{
          nodes: %{:inet.port_number() => role()},
          # Processes with a role that are no node, such as OTP's daemon.
          others: [{role(), program :: String.t(), pid :: String.t()}]
        }

  # The flags of a listener in /proc/net/unix: __SO_ACCEPTCON.
  @so_acceptcon "00010000"

  @doc "The roles of the nodes with these ports. A node whose sockets this user cannot see has none."
  @spec of([:inet.port_number()], :inet.port_number()) :: t()
  def of(ports, epmd_port) do
    epmd = inodes(epmd_port)
    rendezvous = rendezvous(epmd_port)
    nodes = for port <- ports, inode <- inodes(port), do: {inode, port}

    sockets = for inode <- epmd ++ rendezvous ++ Enum.map(nodes, &elem(&1, 0)), do: %{inode: inode, user: nil}
    holders = Linux.holders(sockets, epmd_port)
    rendezvous_seen? = Enum.any?(holders, &holds?(&1, rendezvous))
    roles = for holder <- holders, holds?(holder, epmd), do: {role(holder, rendezvous, rendezvous_seen?), holder}

    Enum.reduce(roles, %{nodes: %{}, others: []}, fn {role, holder}, known ->
      case for {inode, port} <- nodes, inode in holder.inodes, do: port do
        [] -> %{known | others: known.others ++ [{role, holder.program, holder.pid}]}
        ports -> %{known | nodes: Map.merge(known.nodes, Map.new(ports, &{&1, role}))}
      end
    end)
  end

  defp role(holder, rendezvous, rendezvous_seen?),
    do: if(holds?(holder, rendezvous) or not rendezvous_seen?, do: :owner, else: :standby)

  defp holds?(holder, inodes), do: Enum.any?(holder.inodes, &(&1 in inodes))

  defp inodes(port) do
    with sockets when is_list(sockets) <- Linux.listening(port),
         do: Enum.map(sockets, & &1.inode),
         else: (:unknown -> [])
  end

  # Fields: address, references, protocol, flags, type, state, inode, path.
  defp rendezvous(port) do
    with {:ok, text} <- File.read("/proc/self/net/unix") do
      for line <- String.split(text, "\n"),
          [_, _, _, @so_acceptcon, _, _, inode, "@embedded_epmd/" <> owner] <- [String.split(line)],
          String.ends_with?(owner, ":#{port}"),
          do: inode
    else
      {:error, _} -> []
    end
  end
end
