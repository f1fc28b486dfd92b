# Makes the certificates of the suites in the current folder: an authority, a server, a client
# whose name is the user guest, and a client that an unknown authority vouches for.
set -e
ca() { openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj "/CN=$1 authority" -keyout $1_key.pem -out $1_certificate.pem; }
leaf() { # name, common name, authority
  openssl req -newkey rsa:2048 -nodes -subj "/CN=$2" -keyout $1_key.pem -out $1.csr
  printf 'subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1\n' > $1.ext
  openssl x509 -req -in $1.csr -CA $3_certificate.pem -CAkey $3_key.pem -CAcreateserial -days 30 -extfile $1.ext -out $1_certificate.pem
}
ca ca; ca other; leaf server localhost ca; leaf client guest ca; leaf broken guest other
cp broken_key.pem client_key_broken.pem; cp broken_certificate.pem client_certificate_broken.pem
