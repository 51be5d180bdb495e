# An image of Flair: the two programs, and nothing else. No shell, no packages; it runs as user 1000.
#
# The build takes what the image holds from a folder `root/`, laid out as the image will be: it pulls nothing and runs
# nothing. `make image` fills such a folder with programs that need no libraries and builds the image `flair`. By hand:
#
#     export RUSTFLAGS="-C target-feature=+crt-static"
#     cargo build --release --locked --target x86_64-unknown-linux-gnu --bins -p flair-node -p flair-cli
#     mkdir -p image/root/bin image/root/home/flair && mkdir -m 1777 image/root/tmp
#     install --strip target/x86_64-unknown-linux-gnu/release/{flair,flair-node} image/root/bin/
#     docker build --file Dockerfile --tag flair image
#
# `flair-testnet docker` fills it with the programs beside it and the libraries they name instead: quick, and good for a
# test on the same machine.
FROM scratch
COPY --chown=1000:1000 root/ /
USER 1000:1000
# Key, settings and store are in .flair, working folders beside it: one volume keeps all.
ENV HOME=/home/flair FLAIR_HOME=/home/flair/.flair PATH=/bin
WORKDIR /home/flair
VOLUME /home/flair
EXPOSE 4001/tcp 4001/udp
STOPSIGNAL SIGTERM
# A container is reached at its own addresses, not at loopback.
ENTRYPOINT ["/bin/flair-node"]
CMD ["start", "--listen", "/ip4/0.0.0.0/tcp/4001", "--blobs-listen", "0.0.0.0:4001"]
