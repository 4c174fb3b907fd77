defmodule Support.Registration do
  @moduledoc """
  Registers names over TCP, as stock nodes do, without a node.
  """

  @doc """
  Sends an ALIVE2 request to 127.0.0.1; returns the connection, which holds the registration, and the reply.

  The options are `:node_port`, 4711 by default, and `:highest`, the highest distribution version, 6 by default.
  """
  def alive2(name, port, options \\ []) do
    {:ok, socket} = :gen_tcp.connect({127, 0, 0, 1}, port, [:binary, active: false])
    :ok = :gen_tcp.send(socket, request(name, options))
    {:ok, reply} = :gen_tcp.recv(socket, 0, 10_000)
    {socket, reply}
  end

  @doc "The ALIVE2 request, with the same options."
  def request(name, options \\ []) do
    {node_port, highest} = {options[:node_port] || 4711, options[:highest] || 6}
    body = <<?x, node_port::16, 77, 0, highest::16, 5::16, byte_size(name)::16, name::binary, 0::16>>
    <<byte_size(body)::16, body::binary>>
  end

  @doc "Registers a name; returns the connection, which holds the registration, and the creation."
  def register(name, port, options \\ []) do
    {socket, <<?v, 0, creation::32>>} = alive2(name, port, options)
    {socket, creation}
  end
end
