defmodule EmbeddedEpmd.Doctor.Listener do
  @moduledoc false
  # The listener of this node's distribution as it is, whatever was set, and the networks that lead to it.

  import Bitwise

  alias EmbeddedEpmd.Boot.{Environment, HostAddress}

  # SOL_SOCKET and SO_BINDTODEVICE of Linux, and the longest name of a device.
  @device {:raw, 1, 25, 16}

  @typedoc """
  A listener that is bound to the loopback device is `closed`, as one at a loopback address is. `address` is for people:
  `127.0.0.1`, or `the loopback device`.
  """
  @type t :: %{
          ip: :inet.ip_address(),
          address: String.t(),
          port: :inet.port_number(),
          closed: boolean(),
          tls: boolean()
        }

  @typedoc "An address of this machine, and how many of its bits tell the network."
  @type network :: {:inet.ip_address(), bits :: 0..128}

  @doc "The listener of the distribution; `nil` if this VM does not listen."
  @spec of_distribution() :: t() | nil
  def of_distribution do
    with pid when is_pid(pid) <- Process.whereis(:net_kernel),
         {ip, port, device} <-
           Enum.find_value(:erlang.ports(), &port(&1, pid)) || Enum.find_value(sockets(pid), &socket/1),
         do: listener(ip, port, device == "lo"),
         else: (_ -> nil)
  end

  defp listener(ip, port, device?) do
    address = if device?, do: "the loopback device", else: to_string(:inet.ntoa(ip))
    %{ip: ip, address: address, port: port, closed: device? or HostAddress.loopback?(ip), tls: Environment.tls?()}
  end

  # net_kernel opens it. Connections have processes of their own.
  defp port(port, owner) do
    with {:connected, ^owner} <- :erlang.port_info(port, :connected),
         {:ok, {ip, number}} when is_tuple(ip) <- :inet.sockname(port),
         {:error, _} <- :inet.peername(port),
         device = with({:ok, [{:raw, 1, 25, name}]} <- :inet.getopts(port, [@device]), do: name),
         do: {ip, number, device(device)},
         else: (_ -> nil)
  end

  # These numbers have another meaning elsewhere.
  defp device(name) when is_binary(name),
    do: if(:os.type() == {:unix, :linux}, do: name |> String.split("\0") |> hd())

  defp device(_error), do: nil

  # Of the carriers over `socket` (-proto_dist inet_epmd), and with inet_backend.
  defp sockets(owner), do: :socket.which_sockets(&match?(%{owner: ^owner, type: :stream}, &1))

  defp socket(socket) do
    with {:ok, %{addr: ip, port: number}} when is_tuple(ip) <- :socket.sockname(socket),
         {:error, _} <- :socket.peername(socket) do
      device = with {:ok, name} <- :socket.getopt(socket, {:socket, :bindtodevice}), do: to_string(name)
      {ip, number, device(device)}
    else
      _ -> nil
    end
  end

  @doc """
  The networks of this machine, but the loopback's and those of one link. They are unknown where there are no netlink
  sockets, as where systemd's `RestrictAddressFamilies=` leaves out `AF_NETLINK`.
  """
  @spec networks() :: [network()] | :unknown
  def networks do
    with {:ok, interfaces} <- :inet.getifaddrs(),
         do: for({_name, options} <- interfaces, network <- addresses(options), outer?(network), do: network),
         else: ({:error, _} -> :unknown)
  end

  defp addresses([{:addr, ip}, {:netmask, mask} | rest]), do: [{ip, bits(mask)} | addresses(rest)]
  defp addresses([_ | rest]), do: addresses(rest)
  defp addresses([]), do: []

  defp bits(mask), do: mask |> Tuple.to_list() |> Enum.map(&length(for <<(1::1 <- <<&1::16>>)>>, do: 1)) |> Enum.sum()

  defp outer?({{high, _, _, _, _, _, _, _}, _}) when (high &&& 0xFFC0) == 0xFE80, do: false
  defp outer?({ip, _bits}), do: not HostAddress.loopback?(ip)

  @doc "Those of these networks from which a listener at this address can be reached. One at `::` takes IPv4 as well."
  @spec reached_from([network()] | :unknown, :inet.ip_address()) :: [network()] | :unknown
  def reached_from(:unknown, ip), do: if(HostAddress.loopback?(ip), do: [], else: :unknown)
  def reached_from(networks, {0, 0, 0, 0}), do: for({ip, _} = network <- networks, tuple_size(ip) == 4, do: network)
  def reached_from(networks, {0, 0, 0, 0, 0, 0, 0, 0}), do: networks
  def reached_from(networks, ip), do: for({^ip, _} = network <- networks, do: network)

  @doc "Whether the whole internet may route packets to an address."
  @spec public?(:inet.ip_address()) :: boolean()
  def public?({10, _, _, _}), do: false
  def public?({172, b, _, _}) when b in 16..31, do: false
  def public?({192, 168, _, _}), do: false
  def public?({169, 254, _, _}), do: false
  # Of carriers, RFC 6598.
  def public?({100, b, _, _}) when b in 64..127, do: false
  def public?({_, _, _, _}), do: true
  # Unique local addresses.
  def public?({high, _, _, _, _, _, _, _}), do: (high &&& 0xFE00) != 0xFC00
end
