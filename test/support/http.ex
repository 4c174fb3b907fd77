defmodule Support.Http do
  @moduledoc """
  Probes over HTTP, as Kubernetes and Prometheus send them.
  """

  @timeout 10_000

  @doc "The status and the body of the response, or `:closed` if the server closes without one."
  def get(port, path, options \\ []) do
    request =
      "GET #{path} HTTP/1.1\r\nHost: 127.0.0.1:#{port}\r\nUser-Agent: kube-probe/1.33\r\nConnection: close\r\n\r\n"

    send_raw(port, options[:ip] || {127, 0, 0, 1}, [request])
  end

  @doc "Sends these pieces one after the other; returns the same."
  def send_raw(port, ip \\ {127, 0, 0, 1}, pieces) do
    {:ok, socket} = :gen_tcp.connect(ip, port, [:binary, active: false, nodelay: true], @timeout)
    for piece <- pieces, do: :gen_tcp.send(socket, piece)
    response = receive_all(socket, "")
    :gen_tcp.close(socket)
    parse(response)
  end

  @doc "The milliseconds that a probe took, and its response."
  def timed(fun) do
    {microseconds, response} = :timer.tc(fun)
    {div(microseconds, 1000), response}
  end

  defp receive_all(socket, received) do
    case :gen_tcp.recv(socket, 0, @timeout) do
      {:ok, bytes} -> receive_all(socket, received <> bytes)
      {:error, _} -> received
    end
  end

  defp parse(""), do: :closed

  defp parse(response) do
    [head, body] = String.split(response, "\r\n\r\n", parts: 2)
    ["HTTP/1.1 " <> status | fields] = String.split(head, "\r\n")
    true = "Content-Length: #{byte_size(body)}" in fields and "Connection: close" in fields
    {status |> String.split() |> hd() |> String.to_integer(), body}
  end
end
